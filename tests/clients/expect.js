'use strict';

const { isDeepStrictEqual, inspect } = require('node:util');

/** What the programs were told: PORT BACKEND_PORT[,BACKEND_PORT...] PROTOCOL. */
const [port, backends, protocol] = [
  Number(process.argv[2]),
  process.argv[3].split(',').map(Number),
  Number(process.argv[4]),
];

function expect(what, found, wanted) {
  if (!isDeepStrictEqual(plain(found), wanted)) {
    throw new Error(`${what}: ${inspect(found)} instead of ${inspect(wanted)}`);
  }
}

/** The error has to begin with this code. */
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

/** The libraries give objects without a prototype. */
function plain(value) {
  if (Array.isArray(value)) {
    return value.map(plain);
  }
  const isObject = value !== null && typeof value === 'object' && !Buffer.isBuffer(value);
  return isObject ? Object.fromEntries(Object.entries(value).map(([k, v]) => [k, plain(v)])) : value;
}

/** m0 to m999, or with another letter. */
function names(begin) {
  return Array.from({ length: 1000 }, (_, number) => begin + number).sort();
}

/** Runs the program; it may take this long. */
function run(name, program) {
  const tooLong = setTimeout(() => fail(new Error('no end in 30 seconds')), 30_000);
  function fail(error) {
    console.error(`${name}, ${error.stack}`);
    process.exit(1);
  }
  program().then(() => clearTimeout(tooLong), fail);
}

module.exports = { port, backends, protocol, expect, expectError, names, run };
