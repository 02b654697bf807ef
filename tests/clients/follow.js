// Follows a stream through the balancer with ioredis, as the events of a queue (BullMQ's QueueEvents) are followed.
//
// Usage: node follow.js PORT BACKEND_PORT[,BACKEND_PORT...] PROTOCOL

'use strict';

const Redis = require('ioredis');
const { port, backends, protocol, tls, expect, run } = require('./expect.js');

const EVENTS = 20;

async function follow(redis, stream, heard) {
  let last = '$';
  while (heard.length < EVENTS) {
    const read = await redis.xread('BLOCK', 10000, 'STREAMS', stream, last);
    const entries = read ? (Array.isArray(read) ? read[0][1] : Object.values(read)[0]) : [];
    for (const [id, [, event]] of entries) {
      last = id;
      heard.push(event);
    }
  }
}

run('ioredis', async () => {
  const redis = new Redis({ port, protocol, tls });
  const publishers = backends.map((backend) => new Redis({ port: backend }));
  const stream = `events:${protocol}`;
  const publish = (number) =>
    Promise.all(publishers.map((publisher) => publisher.xadd(stream, `${number}-1`, 'event', number)));
  const heard = [];
  const following = follow(redis, stream, heard);
  const blocked = async () => {
    const infos = await Promise.all(publishers.map((publisher) => publisher.info('clients')));
    return infos.some((info) => /blocked_clients:[1-9]/.test(info));
  };
  while (!(await blocked())) {
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
  for (let number = 1; number <= EVENTS; number++) {
    await publish(number);
  }
  await following;
  expect('events', heard, Array.from({ length: EVENTS }, (_, index) => String(index + 1)));
  await Promise.all(publishers.map((publisher) => publisher.quit()));
  expect('QUIT', await redis.quit(), 'OK');
});
