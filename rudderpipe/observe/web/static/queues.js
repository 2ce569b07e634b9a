// Each of several queues in Redis, a row each, with the generations that they belong to.

import { age, byId, count, counted, make, share, show } from './text.js';

export function showQueues({ queues, generations }) {
  const panel = byId('queues-panel');
  panel.hidden = !queues.length;
  show({ generations: generations.map(generation).join('; ') });
  const shown = JSON.stringify(queues);
  if (panel.dataset.shown === shown) return;
  panel.dataset.shown = shown;
  byId('queues').replaceChildren(...queues.map(row));
}

function generation({ number, queues, jobs, is_current: isCurrent, away }) {
  const missing = away ? `, ${counted(away, 'queue')} not readable` : '';
  const old = jobs ? `is drained first, ${counted(jobs, 'job')} left` : 'has no jobs left';
  const left = isCurrent ? 'gets the new events' : old;
  return `generation ${number}, with ${counted(queues, 'queue')}, ${left}${missing}`;
}

function row(queue) {
  const sender = queue.sender ? `${queue.sender.host} pid ${queue.sender.pid}` : 'no sender';
  const state = queue.trouble || (queue.paused ? 'paused' : sender);
  const number = (text) => make('td', { class: 'number' }, text);
  return make(
    'tr',
    { 'data-level': queue.trouble ? 'trouble' : 'ok' },
    make('th', { scope: 'row' }, make('code', {}, queue.prefix)),
    make('td', {}, queue.redis),
    number(String(queue.generation)),
    number(count(queue.waiting)),
    number(count(queue.active)),
    number(count(queue.failed)),
    number(age(queue.oldest_job_age_s)),
    number(queue.share == null ? '–' : share(queue.share, 1)),
    make('td', {}, state),
  );
}
