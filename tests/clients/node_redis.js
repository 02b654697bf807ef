// Reads through the balancer with node-redis, as a program does that knows only Redis.
//
// Usage: node node_redis.js PORT BACKEND_PORT[,BACKEND_PORT...] PROTOCOL

'use strict';

const { createClient, defineScript } = require('redis');
const { port, backends, protocol, expect, expectError, names, run } = require('./expect.js');

function connect(options = {}) {
  const client = createClient({ socket: { port }, RESP: protocol, ...options });
  client.on('error', (error) => {
    console.error(`node-redis, connection: ${error.stack}`);
    process.exit(1);
  });
  return client.connect();
}

async function everyType(client) {
  expect('GET', await client.get('greeting'), 'hello');
  expect('GET of an unknown key', await client.get('nothing'), null);
  expect('MGET', await client.mGet(['greeting', 'nothing', 'number']), ['hello', null, '42']);
  expect('HGETALL', await client.hGetAll('hash'), { name: 'Ada', role: 'engineer' });
  expect('LRANGE', await client.lRange('list', 0, -1), ['a', 'b', 'c']);
  expect('SMEMBERS', [...(await client.sMembers('set'))].sort(), ['x', 'y', 'z']);
  expect('ZSCORE', await client.zScore('zset', 'two'), 2.5);
  const scores = [{ value: 'one', score: 1 }, { value: 'two', score: 2.5 }];
  expect('ZRANGE', await client.zRangeWithScores('zset', 0, -1), scores);
  const entries = await client.xRange('stream', '-', '+');
  expect('XRANGE', entries.map(({ id, message }) => [id, message.event]), [['1-1', 'begin'], ['2-1', 'end']]);
  const read = await client.xRead({ key: 'stream', id: '1-1' });
  expect('XREAD', JSON.stringify(read).includes('2-1'), true);
  expect('TYPE', await client.type('zset'), 'zset');
  const script = "return redis.call('GET', KEYS[1])";
  expect('EVAL_RO', await client.evalRo(script, { keys: ['greeting'] }), 'hello');
  await expectError('WRONGTYPE', 'WRONGTYPE', client.get('hash'));
}

async function connection(client) {
  expect('PING', await client.ping(), 'PONG');
  expect('ECHO', await client.echo('anybody?'), 'anybody?');
  expect('CLIENT GETNAME', await client.clientGetName(), 'reader');
  const info = await client.sendCommand(['CLIENT', 'INFO']);
  expect('CLIENT INFO', / name=reader .* resp=(\d)/.exec(info)?.[1], String(protocol));
  expect('INFO', /redis_version:\d/.test(await client.info()), true);
}

async function pipelines(client) {
  const numbers = Array.from({ length: 500 }, (_, number) => String(number));
  const found = await Promise.all(numbers.map((number) => client.get(`key:${number}`)));
  expect('many at once', found, numbers);
  const pipeline = numbers.reduce((multi, number) => multi.get(`key:${number}`), client.multi());
  expect('a pipeline', await pipeline.execAsPipeline(), numbers);
}

async function transactions(client) {
  expect('MULTI', await client.multi().get('greeting').lLen('list').exec(), ['hello', 3]);
  await client.watch('greeting');
  expect('EXEC after WATCH', await client.multi().get('greeting').exec(), ['hello']);
  const write = client.multi().get('greeting').set('greeting', 'bye').exec();
  await expectError('SET in a transaction', 'READONLY', write);
}

function script(lua) {
  return defineScript({
    SCRIPT: lua,
    NUMBER_OF_KEYS: 1,
    parseCommand: (parser, key) => parser.pushKey(key),
    transformReply: undefined,
  });
}

async function scripts() {
  const client = await connect({
    scripts: {
      readOne: script("return redis.call('GET', KEYS[1])"),
      countOne: script("return redis.call('LLEN', KEYS[1])"),
      writeOne: script("return redis.call('SET', KEYS[1], 'bye')"),
    },
  });
  expect('a script', await client.readOne('greeting'), 'hello');
  expect('the same again', await client.readOne('number'), '42');
  const whole = client.multi().readOne('greeting').countOne('list').readOne('number').exec();
  expect('scripts in a transaction', await whole, ['hello', 3, '42']);
  await expectError('a script that writes', 'ERR Write commands are not allowed', client.writeOne('greeting'));
  await client.close();
}

async function refused(client) {
  await expectError('SET', 'READONLY', client.set('greeting', 'bye'));
  await expectError('DEL', 'READONLY', client.del('greeting'));
  expect('the value after refused writes', await client.get('greeting'), 'hello');
}

async function walk(batches, name = (element) => element) {
  const found = new Set();
  for await (const batch of batches) {
    batch.forEach((element) => found.add(name(element)));
  }
  return [...found].sort();
}

async function walks(client) {
  const keys = client.scanIterator({ MATCH: 'key:*', COUNT: 50 });
  expect('SCAN', await walk(keys), names('key:'));
  expect('HSCAN', await walk(client.hScanIterator('long:hash'), ({ field }) => field), names('m'));
  expect('SSCAN', await walk(client.sScanIterator('long:set')), names('m'));
  expect('ZSCAN', await walk(client.zScanIterator('long:zset'), ({ value }) => value), names('m'));
}

async function databases() {
  const client = await connect({ database: 3 });
  expect('GET in database 3', await client.get('greeting'), 'hello from 3');
  await client.select(0);
  expect('GET in database 0', await client.get('greeting'), 'hello');
  await client.close();
}

async function messages(client) {
  const publishers = await Promise.all(
    backends.map((backend) => connect({ socket: { port: backend } })),
  );
  const publish = (message) =>
    Promise.all(publishers.map((publisher) => publisher.publish('news', message)));
  const subscriber = await connect();
  let hear;
  let heard = new Promise((resolve) => (hear = resolve));
  await subscriber.subscribe('news', (message, channel) => hear([channel, message]));
  await publish('first');
  expect('a message', await heard, ['news', 'first']);
  await subscriber.unsubscribe('news');
  heard = new Promise((resolve) => (hear = resolve));
  await subscriber.pSubscribe('ne?s', (message, channel) => hear([channel, message]));
  await publish('second');
  expect('a message by pattern', await heard, ['news', 'second']);
  await subscriber.pUnsubscribe();
  // With RESP2 the library returns bytes here.
  expect('a read after that', String(await subscriber.get('greeting')), 'hello');
  await Promise.all([subscriber, ...publishers].map((each) => each.close()));
}

run('node-redis', async () => {
  const client = await connect({ name: 'reader' });
  await everyType(client);
  await connection(client);
  await pipelines(client);
  await transactions(client);
  await scripts();
  await refused(client);
  await walks(client);
  await databases();
  await messages(client);
  await client.close();
});
