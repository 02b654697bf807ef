// Reads a queue of BullMQ through the balancer. BullMQ itself has written it, straight to each server.
//
// Usage: node bullmq.js PORT BACKEND_PORT[,BACKEND_PORT...] PROTOCOL

'use strict';

const { Queue, Worker } = require('bullmq');
const { port, backends, expect, run } = require('./expect.js');

const HOUR = 3_600_000;
const TOKEN = 'token';

/** Jobs in every state: 1 is completed, 2 has failed, 3 and 4 wait, 5 is delayed, 6 has a priority. */
async function write(backend) {
  const connection = { port: backend };
  const queue = new Queue('jobs', { connection });
  const add = (name, options) => queue.add(name, { name }, options);
  for (const name of ['one', 'two', 'three', 'four']) {
    await add(name);
  }
  await add('five', { delay: HOUR });
  await add('six', { priority: 7 });
  const worker = new Worker('jobs', null, { connection, autorun: false });
  const next = () => worker.getNextJob(TOKEN);
  await (await next()).moveToCompleted('done', TOKEN, false);
  await (await next()).moveToFailed(new Error('broken'), TOKEN, false);
  await queue.addJobLog('3', 'a line');
  await worker.close();
  await queue.close();
}

const ids = (jobs) => jobs.map((job) => job.id).sort();

async function read(queue) {
  const counts = await queue.getJobCounts();
  expect('getJobCounts', counts, {
    active: 0, completed: 1, delayed: 1, failed: 1, paused: 0, prioritized: 1, waiting: 2, 'waiting-children': 0,
  });
  expect('count', await queue.count(), 4);
  expect('isPaused', await queue.isPaused(), false);
  expect('getJobs', ids(await queue.getJobs()), ['1', '2', '3', '4', '5', '6']);
  expect('getWaiting', ids(await queue.getWaiting()), ['3', '4']);
  expect('getDelayed', ids(await queue.getDelayed()), ['5']);
  expect('getFailed', (await queue.getFailed())[0].failedReason, 'broken');
  expect('getCompleted', (await queue.getCompleted())[0].returnvalue, 'done');
  expect('getCountsPerPriority', await queue.getCountsPerPriority([0, 7]), { 0: 2, 7: 1 });
  expect('getJobLogs', await queue.getJobLogs('3'), { logs: ['a line'], count: 1 });
  expect('getMetrics', (await queue.getMetrics('completed')).count, 0);
  expect('getRateLimitTtl', (await queue.getRateLimitTtl()) <= 0, true);
  const job = await queue.getJob('3');
  expect('getJob', [job.name, job.data], ['three', { name: 'three' }]);
  expect('getState', await job.getState(), 'waiting');
  expect('getJob of an unknown one', await queue.getJob('99'), undefined);
}

run('BullMQ', async () => {
  await Promise.all(backends.map(write));
  // Several, so that each server is read from.
  for (let reader = 0; reader < 6; reader += 1) {
    const queue = new Queue('jobs', { connection: { port }, skipMetasUpdate: true });
    await read(queue);
    await queue.close();
  }
});
