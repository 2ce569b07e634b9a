'use strict';
// Calls any method of Bull's Queue, or of one of its jobs: {"call":"getJobCounts"}, {"job":"3","call":"retry"}.
const { obey, queue, say } = require('./program');

const bull = queue();

bull.isReady().then(() => say({ ready: true }));

obey(async ({ call, job, args = [] }) => {
  if (job === undefined) {
    return bull[call](...args);
  }
  const found = await bull.getJob(job);
  if (!found) {
    throw new Error(`no job ${job}`);
  }
  return found[call](...args);
});
