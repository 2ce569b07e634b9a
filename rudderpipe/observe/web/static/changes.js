// What a person with the token can change: retry and delete failed jobs, pause and resume the queue.

import { post } from './api.js';
import { confirm } from './confirm.js';
import { count, counted } from './text.js';

const AT_ONCE = 500; // ids in one call
const WORDS = {
  retry: {
    verb: 'Retry',
    done: 'in line again',
    text: 'They are put in line again, and get all their attempts again.',
  },
  delete: { verb: 'Delete', done: 'deleted', text: 'Their events are removed for good, and are counted as removed.' },
};

// Retry or delete the jobs of `ids`, or without them all `total` jobs of the filter. Return what was done, in words, or
// null. Only the retry of a single job is not asked about.
export async function change(act, { ids, total, filter, noun, asksFirst }) {
  const { verb, done, text } = WORDS[act];
  const number = ids ? ids.length : total;
  const matching = Object.keys(filter).length ? ' that match the filter' : '';
  const work = (first, tell) => repeat(`api/failed/${act}`, ids ? null : { ...filter, count: total }, ids, first, tell);
  const isSimple = act === 'retry' && ids?.length === 1;
  const sum = isSimple
    ? await work(false, () => {})
    : await confirm({
        title: ids
          ? `${verb} ${counted(number, `failed ${noun}`)}?`
          : `${verb} all ${counted(number, `failed ${noun}`)}${matching}?`,
        text,
        yes: `${verb} ${counted(number, noun)}`,
        isDanger: act === 'delete',
        typed: ids ? null : total,
        asksFirst: act === 'retry' && asksFirst,
        work,
      });
  if (!sum) return null;
  const left = sum.left ? ` ${count(sum.left)} could not be changed, or had gone.` : '';
  return `${counted(sum.changed, noun)} ${sum.changed === 1 ? 'is' : 'are'} ${done}.${left}`;
}

// The server changes at most 1,000 jobs in a call, so the call is made again while there are more.
async function repeat(path, all, ids, first, tell) {
  const sum = { changed: 0, left: 0 };
  const call = async (body) => {
    const answer = await post(path, { ...body, ...(first ? { first } : {}) });
    sum.changed += answer.changed;
    sum.left += answer.left_alone;
    tell(`${count(sum.changed)} done…`);
    return answer;
  };
  if (ids) {
    for (let from = 0; from < ids.length; from += AT_ONCE) await call({ ids: ids.slice(from, from + AT_ONCE) });
    return sum;
  }
  const { count: typed, ...filter } = all;
  let answer = await call({ all: true, ...filter, count: typed });
  while (answer.more) answer = await call({ all: true, ...filter, after: answer.after });
  return sum;
}

export function pauseOrResume(isPaused) {
  const taking = 'Senders finish the jobs that they have, and take no other. Events wait in Redis until you resume.';
  return confirm({
    title: isPaused ? 'Resume the queue?' : 'Pause the queue?',
    text: isPaused ? 'Senders take jobs again.' : taking,
    yes: isPaused ? 'Resume' : 'Pause',
    work: () => post(isPaused ? 'api/queue/resume' : 'api/queue/pause', {}),
  });
}
