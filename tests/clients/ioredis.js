// Reads through the balancer with ioredis, as a program does that knows only Redis.
//
// Usage: node ioredis.js PORT BACKEND_PORT[,BACKEND_PORT...] PROTOCOL

'use strict';

const { once } = require('node:events');
const Redis = require('ioredis');
const { port, backends, protocol, tls, expect, expectError, names, run } = require('./expect.js');

async function everyType(redis) {
  expect('GET', await redis.get('greeting'), 'hello');
  expect('GET of an unknown key', await redis.get('nothing'), null);
  expect('bytes', await redis.getBuffer('binary'), Buffer.from('\0\xff\r\n$-1\r\n', 'latin1'));
  expect('MGET', await redis.mget('greeting', 'nothing', 'number'), ['hello', null, '42']);
  expect('HGETALL', await redis.hgetall('hash'), { name: 'Ada', role: 'engineer' });
  expect('LRANGE', await redis.lrange('list', 0, -1), ['a', 'b', 'c']);
  expect('SMEMBERS', (await redis.smembers('set')).sort(), ['x', 'y', 'z']);
  expect('ZSCORE', await redis.zscore('zset', 'two'), '2.5');
  const scores = await redis.zrange('zset', 0, -1, 'WITHSCORES');
  expect('ZRANGE', scores.flat().map(String), ['one', '1', 'two', '2.5']);
  const entries = [['1-1', ['event', 'begin']], ['2-1', ['event', 'end']]];
  expect('XRANGE', await redis.xrange('stream', '-', '+'), entries);
  const read = await redis.xread('COUNT', 5, 'STREAMS', 'stream', '1-1');
  expect('XREAD', read.flat(3).includes('2-1'), true);
  expect('TYPE', await redis.type('zset'), 'zset');
  const script = "return redis.call('GET', KEYS[1])";
  expect('EVAL_RO', await redis.call('EVAL_RO', script, 1, 'greeting'), 'hello');
  await expectError('WRONGTYPE', 'WRONGTYPE', redis.get('hash'));
}

async function connection(redis) {
  expect('PING', await redis.ping(), 'PONG');
  expect('ECHO', await redis.echo('anybody?'), 'anybody?');
  expect('CLIENT GETNAME', await redis.client('GETNAME'), 'reader');
  const info = await redis.client('INFO');
  expect('CLIENT INFO', / name=reader .* resp=(\d)/.exec(info)?.[1], String(protocol));
  expect('INFO', /redis_version:\d/.test(await redis.info()), true);
}

async function pipelines(redis) {
  const pipeline = redis.pipeline();
  for (let number = 0; number < 500; number++) {
    pipeline.get(`key:${number}`);
  }
  const found = (await pipeline.exec()).map(([error, value]) => error ?? Number(value));
  expect('a pipeline', found, Array.from({ length: 500 }, (_, number) => number));
  const manyAtOnce = await Promise.all(found.map((number) => redis.get(`key:${number}`)));
  expect('many at once', manyAtOnce, found.map(String));
}

async function transactions(redis) {
  const found = await redis.multi().get('greeting').llen('list').exec();
  expect('MULTI', found, [[null, 'hello'], [null, 3]]);
  await redis.watch('greeting');
  expect('EXEC after WATCH', await redis.multi().get('greeting').exec(), [[null, 'hello']]);
  const write = redis.multi().get('greeting').set('greeting', 'bye').exec();
  await expectError('SET in a transaction', 'EXECABORT', write);
}

async function scripts(redis) {
  const define = (name, lua) => redis.defineCommand(name, { numberOfKeys: 1, lua });
  define('readOne', "return redis.call('GET', KEYS[1])");
  define('countOne', "return redis.call('LLEN', KEYS[1])");
  define('writeOne', "return redis.call('SET', KEYS[1], 'bye')");
  expect('a script', await redis.readOne('greeting'), 'hello');
  expect('the same again', await redis.readOne('number'), '42');
  const some = [[null, 'hello'], [null, 3], [null, '42']];
  const piped = redis.pipeline().readOne('greeting').countOne('list').get('number').exec();
  expect('scripts in a pipeline', await piped, some);
  const whole = redis.multi().readOne('greeting').countOne('list').get('number').exec();
  expect('scripts in a transaction', await whole, some);
  await expectError('a script that writes', 'ERR Write commands are not allowed', redis.writeOne('greeting'));
}

async function refused(redis) {
  await expectError('SET', 'READONLY', redis.set('greeting', 'bye'));
  await expectError('DEL', 'READONLY', redis.del('greeting'));
  expect('the value after refused writes', await redis.get('greeting'), 'hello');
}

async function walk(stream) {
  const found = new Set();
  for await (const batch of stream) {
    batch.forEach((element) => found.add(element));
  }
  return [...found];
}

async function walks(redis) {
  const keys = await walk(redis.scanStream({ match: 'key:*', count: 50 }));
  expect('SCAN', keys.sort(), names('key:'));
  const members = (found) => found.filter((element) => element.startsWith('m')).sort();
  expect('HSCAN', members(await walk(redis.hscanStream('long:hash'))), names('m'));
  expect('SSCAN', members(await walk(redis.sscanStream('long:set'))), names('m'));
  expect('ZSCAN', members(await walk(redis.zscanStream('long:zset'))), names('m'));
}

async function databases() {
  const redis = new Redis({ port, db: 3, protocol, tls });
  expect('GET in database 3', await redis.get('greeting'), 'hello from 3');
  expect('SELECT', await redis.select(0), 'OK');
  expect('GET in database 0', await redis.get('greeting'), 'hello');
  await redis.quit();
}

async function messages(redis) {
  const publishers = backends.map((backend) => new Redis({ port: backend }));
  const publish = (message) =>
    Promise.all(publishers.map((publisher) => publisher.publish('news', message)));
  const subscriber = redis.duplicate();
  expect('SUBSCRIBE', await subscriber.subscribe('news'), 1);
  let heard = once(subscriber, 'message');
  await publish('first');
  expect('a message', await heard, ['news', 'first']);
  expect('PSUBSCRIBE', await subscriber.psubscribe('ne?s'), 2);
  expect('UNSUBSCRIBE', await subscriber.unsubscribe('news'), 1);
  heard = once(subscriber, 'pmessage');
  await publish('second');
  expect('a message by pattern', await heard, ['ne?s', 'news', 'second']);
  expect('PUNSUBSCRIBE', await subscriber.punsubscribe(), 0);
  expect('a read after that', await subscriber.get('greeting'), 'hello');
  await subscriber.quit();
  await Promise.all(publishers.map((publisher) => publisher.quit()));
}

run('ioredis', async () => {
  const redis = new Redis({ port, protocol, tls, connectionName: 'reader' });
  await everyType(redis);
  await connection(redis);
  await pipelines(redis);
  await transactions(redis);
  await scripts(redis);
  await refused(redis);
  await walks(redis);
  await databases();
  await messages(redis);
  expect('QUIT', await redis.quit(), 'OK');
});
