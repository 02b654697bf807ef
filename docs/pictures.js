// Makes the pictures of the README from the running program: three Redis servers with the actors,
// the balancer, minutes of load, and one server that is killed and comes back empty.

'use strict';

const { once } = require('node:events');
const fs = require('node:fs');
const net = require('node:net');
const path = require('node:path');
const { backendFlags, httpClient, redisClient, run, seed, sleep, startLb, startServer, untilAnswers } = require('./running.js');
const { launch } = require('../tests/clients/chromium.js');

const PORTS = (process.env.PICTURE_PORTS || '1111 2222 3333').split(' ').map(Number);
const PORT = Number(process.env.PICTURE_PORT || 1310);
const SECONDS = Number(process.env.PICTURE_SECONDS || 320);

const PICTURES = [
  { name: 'status-light', page: '/-/', width: 1440, scheme: 'light' },
  { name: 'status-dark', page: '/-/', width: 1440, scheme: 'dark' },
  { name: 'status-phone-light', page: '/-/', width: 390, scheme: 'light' },
  { name: 'status-phone-dark', page: '/-/', width: 390, scheme: 'dark' },
  { name: 'data-light', page: '/?search=actor:13', width: 1440, scheme: 'light', height: 900 },
  { name: 'data-dark', page: '/actor:1', width: 1440, scheme: 'dark', height: 900 },
  { name: 'data-phone', page: '/actor:1', width: 390, scheme: 'light', height: 844 },
];

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

/** From so many sessions to so many, and back, several times, until the end. */
async function load(end) {
  const sessions = [];
  for (let n = 0; n < 4; n++) httpClient(PORT, () => Date.now() >= end);
  const began = Date.now();
  while (Date.now() < end) {
    const minutes = (Date.now() - began) / 60000;
    const wanted = 24 + 9 * Math.sin(minutes * 1.7) + 5 * Math.sin(minutes * 5.1);
    const isBusy = () => 5 + 3 * Math.sin(minutes * 2.9);
    while (sessions.length < wanted) {
      const own = { until: end };
      sessions.push(own);
      redisClient(PORT, () => Date.now() >= own.until, isBusy);
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
    await page.goto(`http://127.0.0.1:${PORT}${where}`);
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
  const servers = PORTS.map((port) => startServer(port));
  await Promise.all(PORTS.map(untilAnswers));
  seed(PORTS);
  startLb(PORT, backendFlags(PORTS.map((port) => `127.0.0.1:${port}`)));
  await untilAnswers(PORT);
  const end = Date.now() + (SECONDS + 30) * 1000;
  load(end);
  failOnce(servers);
  await sleep(SECONDS * 1000);
  await takePictures();
}

run(main, 'the pictures could not be made');
