'use strict';
// A worker of plain Bull 4, which says the job it got. What it does then is told by `settings.then`:
// "complete" (with the return value null), "fail", or "hold" until the command {"let":"go"}.
const { obey, queue, say, settings } = require('./program');

const bull = queue();
let release;
const released = new Promise((resolve) => {
  release = resolve;
});

bull.process(async (job) => {
  say({ event: 'job', args: [{ id: job.id, name: job.name, data: job.data, attemptsMade: job.attemptsMade }] });
  if (settings.then === 'hold') {
    await released;
  }
  if (settings.then === 'fail') {
    throw new Error('the worker was told to fail');
  }
  return null;
});
bull.on('error', (error) => say({ event: 'trouble', args: [String(error.message)] }));
bull.isReady().then(() => say({ ready: true }));

obey(() => release());
