// Redis servers with the actors, balancers, and clients that keep them busy: what the pictures are made of.
// Whatever was started here ends with the process.

'use strict';

const { spawn, execFileSync } = require('node:child_process');
const { once } = require('node:events');
const fs = require('node:fs');
const net = require('node:net');
const os = require('node:os');
const path = require('node:path');
const { setTimeout: sleep } = require('node:timers/promises');
const Redis = require('ioredis');

const HOME = path.join(__dirname, '..');

/** Where lb and seed are. */
const PROGRAMS = path.resolve(HOME, process.env.LB_PROGRAMS || 'target/release');

/** Longest wait for a condition. */
const PATIENCE_MS = 60_000;

/** Where the servers keep their files. */
const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'pictures-'));
const running = new Set();

function start(program, args, options = {}) {
  const child = spawn(program, args, { cwd: folder, stdio: 'ignore', ...options });
  running.add(child);
  child.on('exit', () => running.delete(child));
  return child;
}

async function freePort() {
  const server = net.createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address();
  server.close();
  await once(server, 'close');
  return port;
}

function startServer(port, args = []) {
  return start('redis-server', ['--port', String(port), '--bind', '127.0.0.1', '--save', '', '--dbfilename', `${port}.rdb`, ...args]);
}

function startLb(port, args, options = {}) {
  return start(path.join(PROGRAMS, 'lb'), ['--listen', `127.0.0.1:${port}`, '--quiet', ...args], options);
}

/** A client that is patient and quiet: what goes wrong is to be seen in lb's pages. */
function connect(port, options = {}) {
  const client = new Redis(port, { maxRetriesPerRequest: null, enableReadyCheck: false, ...options });
  client.on('error', () => {});
  return client;
}

async function untilAnswers(port) {
  const client = connect(port);
  await client.ping();
  client.disconnect();
}

async function until(what, isSo) {
  const end = Date.now() + PATIENCE_MS;
  while (!await isSo()) {
    if (Date.now() > end) throw new Error(`waited in vain until ${what}`);
    await sleep(100);
  }
}

const backendFlags = (addresses) => addresses.flatMap((address) => ['--backend', address]);

function seed(ports) {
  const addresses = ports.map((port) => `127.0.0.1:${port}`);
  execFileSync(path.join(PROGRAMS, 'seed'), [path.join(HOME, 'actors.csv'), ...backendFlags(addresses)], { stdio: 'ignore' });
}

const actor = () => `actor:${1 + Math.floor(Math.random() * 1319)}`;

/** A command, seldom one that makes no sense here. */
function command() {
  const luck = Math.random();
  if (luck < 0.55) return ['HGETALL', actor()];
  if (luck < 0.8) return ['HGET', actor(), 'last_name'];
  if (luck < 0.9) return ['EXISTS', actor()];
  if (luck < 0.97) return ['TTL', actor()];
  if (luck < 0.998) return ['SCAN', 0, 'COUNT', 5];
  return ['SET', actor(), 'nobody'];
}

/** A Redis client: some commands every tenth of a second. */
async function redisClient(port, isOver, isBusy = () => 5, options = {}, next = command) {
  const client = connect(port, options);
  while (!isOver()) {
    // What is refused, and what the client's end cuts off, is counted by lb.
    for (let n = 0; n < isBusy(); n++) client.call(...next()).catch(() => {});
    await sleep(100);
  }
  client.disconnect();
}

/** A client over HTTP. */
async function httpClient(port, isOver) {
  while (!isOver()) {
    await fetch(`http://127.0.0.1:${port}/${actor()}`).then((answer) => answer.text(), () => {});
    await sleep(15 + Math.random() * 30);
  }
}

function cleanUp() {
  for (const child of running) child.kill('SIGKILL');
  fs.rmSync(folder, { recursive: true, force: true });
}

/** Runs a program to its end. */
function run(main, what) {
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) process.on(signal, () => process.exit(130));
  process.on('exit', cleanUp);
  main().then(() => process.exit(), (error) => {
    console.error(`${what}: ${error.stack}`);
    process.exit(1);
  });
}

module.exports = {
  PROGRAMS, folder, start, startServer, startLb, freePort, connect, untilAnswers, until,
  backendFlags, seed, redisClient, httpClient, run, sleep,
};
