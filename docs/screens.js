// Takes pictures of the status page and the data browser in every scene: real servers, real clients, real failures.
// Fails if axe-core finds something, if a page causes an error, or if one has to be scrolled sideways.
//
// Usage: node screens.js [SCENE...]
// The pictures, and index.html with all of them, are in target/screens.

'use strict';

const { execFile } = require('node:child_process');
const fs = require('node:fs');
const path = require('node:path');
const { promisify } = require('node:util');
const {
  PROGRAMS, backendFlags, connect, folder, freePort, httpClient, redisClient, run, seed, sleep, startLb, startServer,
  until, untilAnswers,
} = require('./running.js');
const { findings, isTooWide, launch } = require('../tests/clients/chromium.js');

const TARGET = path.join(__dirname, '../target/screens');
// axe-core takes long: each width and each scheme once is enough.
const VIEWS = [
  { width: 1440, colorScheme: 'light', isChecked: false },
  { width: 1440, colorScheme: 'dark', isChecked: true },
  { width: 1024, colorScheme: 'light', isChecked: true },
  { width: 390, colorScheme: 'light', isChecked: true },
  { width: 390, colorScheme: 'dark', isChecked: false },
];
const NARROWEST = 320;

const pictures = []; // as { scene, file }
const wrong = [];
let browser = null;

// ---- Pictures

/** Takes the pictures of one page, in every view. */
async function shoot(scene, url, options = {}) {
  const page = await browser.newPage(options);
  const note = (what) => {
    wrong.push(`${scene}: ${what}`);
    console.error(wrong.at(-1));
  };
  page.on('pageerror', (error) => note(error.message));
  page.on('console', (message) => {
    const isExpected = /Failed to load resource/.test(message.text());
    if (['error', 'warning'].includes(message.type()) && !isExpected) note(message.text());
  });
  await page.setViewportSize({ width: VIEWS[0].width, height: 900 });
  await page.goto(url);
  if (url.endsWith('/-/')) await page.waitForFunction(() => Number(document.documentElement.dataset.updates) >= 3);
  for (const { width, colorScheme, isChecked } of VIEWS) {
    const view = `${width}-${colorScheme}`;
    await page.emulateMedia({ colorScheme });
    await page.setViewportSize({ width, height: width < 500 ? 844 : 900 });
    // A resized chart is drawn in the next frame.
    await page.evaluate(() => new Promise((drawn) => requestAnimationFrame(() => requestAnimationFrame(drawn))));
    const file = `${scene}-${view}.png`;
    await page.screenshot({ path: path.join(TARGET, file), fullPage: true });
    pictures.push({ scene, file });
    if (await isTooWide(page)) note(`has to be scrolled sideways at ${view}`);
    for (const text of await sticksOut(page)) note(`sticks out of its place at ${view}: ${text}`);
    for (const finding of isChecked ? await findings(page) : []) note(`${view}: ${finding}`);
  }
  await page.setViewportSize({ width: NARROWEST, height: 700 });
  if (await isTooWide(page)) note(`has to be scrolled sideways at ${NARROWEST}`);
  await page.close();
  console.log(scene);
}

/** The places whose contents are wider than they are, unless these are shortened. */
const sticksOut = (page) => page.$$eval('.tile, .card, main p, main dd, main li, main th, main td', (places) => places
  .filter((place) => place.clientWidth > 1 && place.scrollWidth > place.clientWidth + 1)
  .map((place) => place.innerText.slice(0, 80)));

/** An HTML page with all pictures, a scene a row. */
function writeIndex() {
  const scenes = [...new Set(pictures.map(({ scene }) => scene))];
  const image = ({ file }) => `<a href="${file}"><img src="${file}" height="420" loading="lazy" alt="${file}"></a>`;
  const row = (scene) => `<h2>${scene}</h2>\n${pictures.filter((one) => one.scene === scene).map(image).join('\n')}`;
  fs.writeFileSync(path.join(TARGET, 'index.html'), `<!doctype html>\n<title>redis-lb in every scene</title>\n${scenes.map(row).join('\n')}\n`);
}

// ---- Worlds

/** Redis servers that hold the actors. */
async function startServers(count, args = []) {
  const servers = [];
  for (let n = 0; n < count; n++) {
    const port = await freePort();
    servers.push({ port, address: `127.0.0.1:${port}`, process: startServer(port, args) });
  }
  await Promise.all(servers.map(({ port }) => untilAnswers(port)));
  return servers;
}

async function startActors(count) {
  const servers = await startServers(count);
  seed(servers.map(({ port }) => port));
  return servers;
}

/** A balancer for these addresses, with what its pages say. */
async function balance(addresses, args = [], headers = {}) {
  const port = await freePort();
  const url = `http://127.0.0.1:${port}`;
  const process = startLb(port, [...backendFlags(addresses), ...args]);
  const status = async () => (await fetch(`${url}/-/status.json`, { headers })).json();
  await until('lb answers', () => status().then(() => true, () => false));
  const backends = async () => (await status()).backends;
  const untilStates = (what, are) => until(what, async () => are((await backends()).map(({ state }) => state)));
  await until('all are checked', async () => (await backends()).every((backend) => backend.last_check));
  return { port, url, process, status, untilStates, page: `${url}/-/` };
}

const addressesOf = (servers) => servers.map(({ address }) => address);

/** Keeps a balancer busy with clients of both protocols; returns what ends them. */
function load({ port }, sessions) {
  let isOver = false;
  for (let n = 0; n < 3; n++) httpClient(port, () => isOver);
  for (let n = 0; n < sessions; n++) redisClient(port, () => isOver, () => 3 + n % 4);
  return () => { isOver = true; };
}

/** A read that keeps its server busy. */
const slowRead = (seconds) => ['EVAL_RO',
  `local finish = redis.call('TIME')[1] + ${seconds} while redis.call('TIME')[1] + 0 < finish do end return 1`, 0];

function fillWithShapes(port) {
  const client = connect(port);
  const order = { id: 4711, customer: { name: 'Zoë Ellingworth', vip: true }, lines: [{ sku: 'A-1', price: 12.5 }, { sku: 'B-22', price: 0.99 }] };
  const story = 'She took the early train, and he the late one. '.repeat(400);
  return client.pipeline()
    .set('order:4711', JSON.stringify(order))
    .set('picture:1', Buffer.from(Array.from({ length: 600 }, (_, n) => (n * 37) % 256)))
    .set('counter', 1234567)
    .set('story', story)
    .set('empty', '')
    .setex('session:9f8e', 3600, 'mara')
    .set(`${'very:long:name:'.repeat(14)}end`, 'found')
    .set('mit\nUmbruch und\tTab', 'Grüße aus Zürich 👋')
    .rpush('queue', ...Array.from({ length: 250 }, (_, n) => `job ${n + 1}`))
    .sadd('tags', 'red', 'green', 'blue', 'x'.repeat(300))
    .zadd('ranking', ...Array.from({ length: 40 }, (_, n) => [n * 12.25, `player:${n + 1}`]).flat())
    .xadd('events', '*', 'type', 'login', 'user', 'mara')
    .xadd('events', '*', 'type', 'purchase', 'user', 'zoë', 'amount', '12.50')
    .hset('settings', { theme: 'dark', 'long value': story.slice(0, 2000), json: JSON.stringify(order), 'a name that is rather long for a field': '1' })
    .exec().finally(() => client.disconnect());
}

// ---- Scenes. Each takes its pictures, by their names.

async function idle() {
  const lb = await balance(addressesOf(await startActors(3)));
  await shoot('idle', lb.page);
}

/** One balancer, from a full minute of load to the failure of all servers. */
async function busy() {
  const servers = await startActors(3);
  const lb = await balance(addressesOf(servers), ['--allow-scripts']);
  const end = load(lb, 24);
  await sleep(68_000);
  await shoot('load', lb.page);

  // Some are known to be slow, one is running.
  const client = connect(lb.port);
  await client.call(...slowRead(2));
  client.call(...slowRead(25)).catch(() => {});
  await until('it runs', async () => (await lb.status()).slow_reads.running.length > 0);
  await shoot('slow-read', lb.page);

  servers[1].process.kill('SIGKILL');
  await lb.untilStates('one is down', (states) => states[1] === 'down');
  await sleep(5000);
  await shoot('one-down', lb.page);

  servers[2].process.kill('SIGSTOP');
  await lb.untilStates('one is frozen', (states) => states[2] !== 'up');
  await shoot('frozen', lb.page);

  servers[0].process.kill('SIGKILL');
  await lb.untilStates('none is up', (states) => states.every((state) => state === 'down'));
  await shoot('all-down', lb.page);
  await shoot('data-no-answer', `${lb.url}/actor:1`);
  end();
  client.disconnect();
}

/** A replica that takes long to load its data, and a server that came back with some of its keys. */
async function syncing() {
  const populate = async ({ port }, count) => {
    const client = connect(port);
    await client.call('DEBUG', 'POPULATE', count, 'key', 500);
    client.disconnect();
  };
  const allowed = ['--enable-debug-command', 'local'];
  const [primary, copy] = await startServers(2, [...allowed, '--repl-diskless-sync-delay', '0']);
  // It loads a key in a millisecond, and answers meanwhile.
  const [replica] = await startServers(1, ['--key-load-delay', '1000', '--loading-process-events-interval-bytes', '8192']);
  await Promise.all([populate(primary, 40_000), populate(copy, 40_000)]);
  const lb = await balance(addressesOf([primary, replica, copy]));
  const end = load(lb, 12);
  await sleep(10_000);
  copy.process.kill('SIGKILL');
  const follower = connect(replica.port);
  await follower.call('REPLICAOF', '127.0.0.1', primary.port);
  await lb.untilStates('one is down, the other syncs', (states) => states[1] === 'syncing' && states[2] === 'down');
  startServer(copy.port, allowed);
  await untilAnswers(copy.port);
  await populate(copy, 31_416);
  await lb.untilStates('both sync', (states) => states[1] === 'syncing' && states[2] === 'syncing');
  await sleep(5000);
  await shoot('syncing', lb.page);
  end();
  follower.disconnect();
}

async function many() {
  const servers = await startActors(14);
  const lb = await balance(addressesOf(servers));
  const end = load(lb, 40);
  await sleep(12_000);
  [3, 8].forEach((index) => servers[index].process.kill('SIGKILL'));
  await lb.untilStates('two are down', (states) => states.filter((state) => state === 'down').length === 2);
  await shoot('fourteen', lb.page);
  end();
}

/** Servers with names of 100 to 200 characters. */
async function longNames() {
  const socket = path.join(folder, `${'a-rather-long-name-of-a-server-'.repeat(3)}`.slice(0, 100 - folder.length), 'redis');
  fs.mkdirSync(path.dirname(socket));
  const [server] = await startServers(1, ['--unixsocket', socket]);
  seed([server.port]);
  const host = `redis-replica-7.${'eu-central-1.compute.'.repeat(8)}internal`;
  const short = 'redis-primary-0.redis-headless.production.svc.cluster.local.invalid';
  const lb = await balance([`redis+unix://${socket}`, `${short}:6379`, `${host}:6379`, server.address]);
  const end = load(lb, 6);
  await sleep(8000);
  await shoot('long-names', lb.page);
  end();
}

async function drained() {
  const control = path.join(folder, 'control');
  const [one, two, three] = addressesOf(await startActors(3));
  const lb = await balance([one, two, three], ['--control', control, '--drain-delay', '60s']);
  const end = load(lb, 8);
  const ctl = (...args) => promisify(execFile)(path.join(PROGRAMS, 'lb'), ['ctl', '--control', control, ...args]);
  await sleep(3000);
  await ctl('drain', one);
  await ctl('maint', two);
  await sleep(2000);
  await shoot('draining', lb.page);
  lb.process.kill('SIGTERM');
  await until('it leaves', async () => (await lb.status()).phase !== 'serving');
  await shoot('leaving', lb.page);
  end();
}

/** Users, of whom one is over its limit and one has no rights; and the near cache. */
async function usersAndCache() {
  const config = path.join(folder, 'lb.toml');
  const user = (name, rules, limits = '') => `[[user]]\nname = "${name}"\nrules = "${rules}"\n${limits}\n`;
  fs.writeFileSync(config, [
    user('admin', 'on >secret ~* +@all'),
    user('reports', 'on >secret ~* +@read +@connection', 'max-clients = 3\nmax-requests-per-second = 50'),
    user('nobody', 'on >secret ~none:* +@read +@connection'),
  ].join('\n'), { mode: 0o600 });
  const headers = { authorization: `Basic ${Buffer.from('admin:secret').toString('base64')}` };
  const lb = await balance(addressesOf(await startActors(3)), ['--config', config, '--cache', '64MiB'], headers);
  let isOver = false;
  ['admin', 'admin', 'admin', 'reports', 'reports', 'reports', 'reports', 'nobody'].forEach((username) =>
    redisClient(lb.port, () => isOver, () => 8, { username, password: 'secret' }));
  const hot = () => ['HGETALL', `actor:${1 + Math.floor(30 * Math.random() ** 3)}`];
  redisClient(lb.port, () => isOver, () => 60, { username: 'admin', password: 'secret' }, hot);
  await sleep(12_000);
  await shoot('users-and-cache', lb.page, { httpCredentials: { username: 'admin', password: 'secret' } });
  isOver = true;
}

async function data() {
  const [server] = await startActors(1);
  await fillWithShapes(server.port);
  const { url } = await balance([server.address]);
  const pages = {
    start: '/', search: '/?search=actor:13', hash: '/actor:1', 'hash-long': '/settings', list: '/queue', set: '/tags',
    zset: '/ranking', stream: '/events', json: '/order:4711', binary: '/picture:1', number: '/counter', long: '/story',
    'long-name': `/${'very:long:name:'.repeat(14)}end`, expiring: '/session:9f8e', missing: '/actor:none',
    'nothing-found': '/?search=nothing*', 'bad-request': '/?limit=many',
  };
  const headers = { accept: 'text/html' };
  for (const [name, where] of Object.entries(pages)) {
    await shoot(`data-${name}`, url + where, { extraHTTPHeaders: headers });
  }
}

async function empty() {
  const [server] = await startServers(1);
  const client = connect(server.port, { db: 3 });
  await client.set('somewhere', 'else');
  const lb = await balance([server.address]);
  await shoot('data-empty', `${lb.url}/`);
  await shoot('one-backend', lb.page);
  client.disconnect();
}

const SCENES = { idle, syncing, many, longNames, drained, usersAndCache, data, empty, busy };

async function main() {
  const wanted = process.argv.slice(2);
  const unknown = wanted.filter((name) => !(name in SCENES));
  if (unknown.length > 0) throw new Error(`no scene ${unknown.join(', ')}; there are: ${Object.keys(SCENES).join(', ')}`);
  fs.rmSync(TARGET, { recursive: true, force: true });
  fs.mkdirSync(TARGET, { recursive: true });
  browser = await launch();
  const isWanted = ([name]) => wanted.length === 0 || wanted.includes(name);
  // The long scene runs beside the others, which have few processors to share.
  const { busy: long, ...others } = Object.fromEntries(Object.entries(SCENES).filter(isWanted));
  const inTurn = async (scenes) => { for (const scene of scenes) await scene(); };
  await Promise.all([long?.(), inTurn(Object.values(others))]);
  await browser.close();
  writeIndex();
  console.log(`${pictures.length} pictures: ${path.join(TARGET, 'index.html')}`);
  if (wrong.length > 0) throw new Error(`${wrong.length} findings, see above`);
}

run(main, 'screens');
