'use strict';

const { readFileSync } = require('node:fs');
const { isDeepStrictEqual, inspect } = require('node:util');

/** Arguments of the programs: PORT BACKEND_PORT[,BACKEND_PORT...] PROTOCOL. LB_TEST_CA names the CA, if they speak TLS. */
const [port, backends, protocol] = [
  Number(process.argv[2]),
  process.argv[3].split(',').map(Number),
  Number(process.argv[4]),
];

const tls = process.env.LB_TEST_CA && { ca: readFileSync(process.env.LB_TEST_CA) };

function expect(what, found, wanted) {
  if (!isDeepStrictEqual(plain(found), wanted)) {
    throw new Error(`${what}: ${inspect(found)} instead of ${inspect(wanted)}`);
  }
}

/** Requires an error that begins with this code. */
async function expectError(what, code, promise) {
  let found;
  try {
    found = await promise;
  } catch (error) {
    if (String(error.message).startsWith(code)) {
      return;
    }
    throw new Error(`${what}: ${inspect(error)} instead of ${code}`);
  }
  throw new Error(`${what}: ${inspect(found)} instead of ${code}`);
}

/** Converts the libraries' objects, which have no prototype, to plain ones. */
function plain(value) {
  if (Array.isArray(value)) {
    return value.map(plain);
  }
  const isObject = value !== null && typeof value === 'object' && !Buffer.isBuffer(value);
  return isObject ? Object.fromEntries(Object.entries(value).map(([k, v]) => [k, plain(v)])) : value;
}

/** The names PREFIX0 to PREFIX999, sorted. */
function names(prefix) {
  return Array.from({ length: 1000 }, (_, number) => prefix + number).sort();
}

/** Runs the program, with a time limit. */
function run(name, program) {
  const tooLong = setTimeout(() => fail(new Error('no end in 30 seconds')), 30_000);
  function fail(error) {
    console.error(`${name}, ${error.stack}`);
    process.exit(1);
  }
  program().then(() => clearTimeout(tooLong), fail);
}

module.exports = { port, backends, protocol, tls, expect, expectError, names, run };
