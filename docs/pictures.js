// Makes the pictures of the README from the running program: three Redis servers with the actors,
// the balancer, minutes of load, and one server that is killed and comes back empty.

'use strict';

const { spawn, execFileSync } = require('node:child_process');
const { once } = require('node:events');
const fs = require('node:fs');
const net = require('node:net');
const os = require('node:os');
const path = require('node:path');
const { setTimeout: sleep } = require('node:timers/promises');
const Redis = require('ioredis');
const { launch } = require('../tests/clients/chromium.js');

const HOME = path.join(__dirname, '..');
const RELEASE = path.join(HOME, 'target/release');
const PORTS = (process.env.PICTURE_PORTS || '1111 2222 3333').split(' ').map(Number);
const PORT = Number(process.env.PICTURE_PORT || 1310);
const SECONDS = Number(process.env.PICTURE_SECONDS || 320);
const URL = `http://127.0.0.1:${PORT}`;
const BACKENDS = PORTS.flatMap((port) => ['--backend', `127.0.0.1:${port}`]);

const PICTURES = [
  { name: 'status-light', page: '/-/', width: 1440, scheme: 'light' },
  { name: 'status-dark', page: '/-/', width: 1440, scheme: 'dark' },
  { name: 'status-phone-light', page: '/-/', width: 390, scheme: 'light' },
  { name: 'status-phone-dark', page: '/-/', width: 390, scheme: 'dark' },
  { name: 'data-light', page: '/?search=actor:13', width: 1440, scheme: 'light', height: 900 },
  { name: 'data-dark', page: '/actor:1', width: 1440, scheme: 'dark', height: 900 },
  { name: 'data-phone', page: '/actor:1', width: 390, scheme: 'light', height: 844 },
];

const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'pictures-'));
const running = new Set();

function start(program, args) {
  const child = spawn(program, args, { cwd: folder, stdio: 'ignore' });
  running.add(child);
  child.on('exit', () => running.delete(child));
  return child;
}

/** Whatever already has a port is not ours to fill and to kill. */
async function requireFree(port) {
  const server = net.createServer().listen(port, '127.0.0.1');
  await once(server, 'listening').catch(({ message }) => {
    throw new Error(`${message}. Free it (bash load_data.sh --stop ends the servers of make demo), ` +
      'or choose others: PICTURE_PORTS="4111 4222 4333" PICTURE_PORT=4310');
  });
  server.close();
  await once(server, 'close');
}

function startServer(port) {
  return start('redis-server', ['--port', String(port), '--bind', '127.0.0.1', '--save', '']);
}

async function untilAnswers(port) {
  const client = new Redis(port, { maxRetriesPerRequest: null });
  client.on('error', () => {});
  await client.ping();
  client.disconnect();
}

function seed(ports) {
  const args = ports.flatMap((port) => ['--backend', `127.0.0.1:${port}`]);
  execFileSync(path.join(RELEASE, 'seed'), [path.join(HOME, 'actors.csv'), ...args], { stdio: 'ignore' });
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
async function session(ends, isBusy) {
  const client = new Redis(PORT);
  client.on('error', () => {});
  while (Date.now() < ends()) {
    // What is refused, and what the client's end cuts off, is counted by lb.
    for (let n = 0; n < isBusy(); n++) client.call(...command()).catch(() => {});
    await sleep(100);
  }
  client.disconnect();
}

/** A client over HTTP. */
async function httpClient(end) {
  while (Date.now() < end) {
    await (await fetch(`${URL}/${actor()}`)).text();
    await sleep(15 + Math.random() * 30);
  }
}

/** From so many sessions to so many, and back, several times, until the end. */
async function load(end) {
  const sessions = [];
  for (let n = 0; n < 4; n++) httpClient(end);
  const began = Date.now();
  while (Date.now() < end) {
    const minutes = (Date.now() - began) / 60000;
    const wanted = 24 + 9 * Math.sin(minutes * 1.7) + 5 * Math.sin(minutes * 5.1);
    const isBusy = () => 5 + 3 * Math.sin(minutes * 2.9);
    while (sessions.length < wanted) {
      const own = { until: end };
      sessions.push(own);
      session(() => own.until, isBusy);
    }
    while (sessions.length > wanted + 1) sessions.shift().until = 0;
    await sleep(500);
  }
}

async function failOnce(servers) {
  await sleep(SECONDS * 450);
  servers[2].kill('SIGKILL');
  await sleep(SECONDS * 80);
  startServer(PORTS[2]);
  await untilAnswers(PORTS[2]);
  await sleep(SECONDS * 30);
  seed([PORTS[2]]);
}

async function takePictures() {
  const browser = await launch();
  for (const { name, page: where, width, height, scheme } of PICTURES) {
    const viewport = { width, height: height || 900 };
    const page = await browser.newPage({ viewport, colorScheme: scheme });
    await page.goto(URL + where);
    if (where === '/-/') {
      await page.waitForFunction(() => Number(document.documentElement.dataset.updates) >= 3);
    }
    const file = path.join(__dirname, 'pictures', `${name}.png`);
    await page.screenshot({ path: file, fullPage: !height });
    await page.close();
  }
  await browser.close();
}

async function main() {
  fs.mkdirSync(path.join(__dirname, 'pictures'), { recursive: true });
  for (const port of [...PORTS, PORT]) await requireFree(port);
  const servers = PORTS.map(startServer);
  await Promise.all(PORTS.map(untilAnswers));
  seed(PORTS);
  start(path.join(RELEASE, 'lb'), ['--listen', `127.0.0.1:${PORT}`, '--quiet', ...BACKENDS]);
  await untilAnswers(PORT);
  const end = Date.now() + (SECONDS + 30) * 1000;
  load(end);
  failOnce(servers);
  await sleep(SECONDS * 1000);
  await takePictures();
}

function cleanUp() {
  for (const child of running) child.kill();
  fs.rmSync(folder, { recursive: true, force: true });
}

for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) process.on(signal, () => process.exit(130));
process.on('exit', cleanUp);
main().then(() => process.exit(0), (error) => {
  console.error(`the pictures could not be made: ${error.message}`);
  process.exit(1);
});
