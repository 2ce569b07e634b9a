// The page: asks for the flow each second while it is visible, and says when it is not connected.

import { get, getChanged, post } from './api.js';
import { pauseOrResume } from './changes.js';
import { Doctor } from './doctor.js';
import { FailedJobs } from './failed.js';
import { finding } from './finding.js';
import { forgetRates, showFlow } from './flow.js';
import { History } from './history.js';
import { showQueues } from './queues.js';
import { age, byId, clock, count, icon, make, show } from './text.js';

const POLL_MS = 1000;
const SLOW_POLL_MS = 5000; // producers
const MOST_PRODUCERS = 20;
const WORDS = { ok: 'OK', warning: 'Warning', trouble: 'Trouble', unknown: 'Not known' };
const COLOURS = { ok: '#1a7f37', warning: '#bf8700', trouble: '#cf222e', unknown: '#6e7781' };

const history = new History();
const failed = new FailedJobs();
let latest = null; // { flow, etag, atMs: when this page got it }
let awaySinceMs = null;
let polling = null; // the AbortController of the request under way
let timer = 0;
let historyDueMs = 0;
let producersDueMs = 0;
let producersBefore = null;

async function poll() {
  clearTimeout(timer);
  polling?.abort();
  const mine = (polling = new AbortController());
  const answer = await getChanged('api/flow', latest?.etag, mine.signal).catch((error) => error);
  if (mine.signal.aborted) return;
  timer = setTimeout(poll, POLL_MS);
  if (answer instanceof Error) {
    awaySinceMs ??= Date.now();
    showAway(answer);
    return;
  }
  awaySinceMs = null;
  if (answer) latest = { flow: answer.body, etag: answer.etag, atMs: performance.now() };
  showLatest();
  askWhatIsDue();
}

// What changes more slowly. A trouble here is no reason to call the figures above old.
function askWhatIsDue() {
  const now = performance.now();
  if (now >= historyDueMs) {
    historyDueMs = now + 10_000;
    get('api/history').then(
      (answer) => history.take(answer),
      () => {},
    );
  }
  if (now >= producersDueMs) {
    producersDueMs = now + SLOW_POLL_MS;
    get('api/producers').then(
      ({ producers }) => showProducers(producers),
      () => {},
    );
  }
}

function showLatest() {
  const { flow, atMs } = latest;
  // A response without a body says that all totals are the same a moment later.
  const sinceMs = performance.now() - atMs;
  const laterMs = sinceMs > 2 * POLL_MS ? sinceMs : 0;
  showFlow(flow, flow.taken_at_s + laterMs / 1000, history);
  showQueues(flow);
  showVerdict(flow.verdict.level, flow.verdict.text, '');
  showFindings(flow.findings);
  showAccess(flow);
  setStale(false);
  const mode = flow.mode === 'direct' ? 'direct mode, without Redis' : `Redis ${flow.redis}, queue ${flow.queue}`;
  show({
    pipe: flow.pipe,
    facts: `on ${flow.host}`,
    live: `Live, ${clock(flow.taken_at_ms + laterMs)}`,
    footer: `rudderpipe ${flow.version} · pipe ${flow.pipe} · ${mode} · data plane ${flow.data_plane}`,
  });
  byId('live').dataset.state = 'live';
  failed.follow(flow, flow.taken_at_ms + laterMs);
}

function showAway(error) {
  const isLoggedOut = error.status === 403 && latest?.flow.can_log_in;
  const since = `${isLoggedOut ? 'Logged out' : 'Not connected'} since ${clock(awaySinceMs)}`;
  byId('log-in').hidden = !isLoggedOut;
  byId('log-out').hidden = true;
  const old = latest ? `What is shown below is from ${clock(latest.flow.taken_at_ms)}. ` : '';
  showVerdict(
    'unknown',
    `${since}: it is not known whether all is well.`,
    `${error.status ? error.message : 'The server of this page does not respond.'} ${old}The page asks again each second.`,
  );
  byId('findings').replaceChildren();
  byId('findings').dataset.shown = '';
  setStale(true);
  show({ live: since });
  byId('live').dataset.state = 'away';
}

function setStale(isStale) {
  byId('figures').dataset.stale = isStale;
  show({ 'as-of': isStale && latest ? `as of ${clock(latest.flow.taken_at_ms)}, not live` : '' });
}

function showVerdict(level, text, note) {
  const verdict = byId('verdict');
  if (verdict.dataset.level !== level) {
    verdict.dataset.level = level;
    verdict.firstElementChild.replaceWith(icon(level));
    byId('favicon').href = `data:image/svg+xml,${encodeURIComponent(
      `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 16 16"><circle cx="8" cy="8" r="7" fill="${COLOURS[level]}"/></svg>`,
    )}`;
  }
  show({ level: WORDS[level], verdict: text, note });
  const pipe = latest?.flow.pipe;
  document.title = `${WORDS[level]}${pipe ? ` – ${pipe}` : ''} – rudderpipe`;
  // A screen reader hears a verdict when it changes, and not each time that a number in it does.
  const said = byId('announcement');
  const same = `${level} ${text.replace(/[\d.,:]+/g, '#')}`;
  if (said.dataset.same !== same) {
    said.dataset.same = same;
    said.textContent = `${WORDS[level]}. ${text}`;
  }
}

function showFindings(findings) {
  const list = byId('findings');
  const shown = JSON.stringify(findings);
  if (list.dataset.shown === shown) return;
  list.dataset.shown = shown;
  list.replaceChildren(...findings.map((each) => finding({ ...each, title: WORDS[each.level] })));
}

function showAccess(flow) {
  const mayAct = flow.access === 'all';
  byId('log-in').hidden = mayAct || !flow.can_log_in;
  byId('log-out').hidden = !(mayAct && flow.can_log_in);
  show({ access: mayAct ? 'May change' : 'Read only' });
  const pause = byId('pause');
  pause.hidden = !mayAct || !flow.queue_state;
  pause.textContent = flow.queue_state?.paused ? 'Resume the queue…' : 'Pause the queue…';
}

function showProducers(producers) {
  const now = performance.now();
  const before = producersBefore?.totals ?? new Map();
  const passedS = producersBefore && (now - producersBefore.now) / 1000;
  const key = (each) => `${each.slot} ${each.pid}`;
  const most = [...producers].sort((one, other) => other.accepted - one.accepted).slice(0, MOST_PRODUCERS);
  byId('producers').replaceChildren(
    ...most.map((each) => {
      const grown = before.has(key(each)) ? (each.accepted - before.get(key(each))) / passedS : null;
      const refused = Object.values(each.refused).reduce((all, more) => all + more, 0);
      const cells = [
        age(each.up_s),
        count(each.accepted),
        grown == null ? '–' : `${count(Math.round(grown))}/s`,
        count(each.in_ring),
        count(refused),
      ];
      return make(
        'tr',
        {},
        make('th', { scope: 'row' }, `pid ${each.pid}`, ...(each.interpreter ? [` (${each.interpreter})`] : [])),
        ...cells.map((text, index) => make('td', { class: index ? 'number' : 'up' }, text)),
      );
    }),
  );
  producersBefore = { now, totals: new Map(producers.map((each) => [key(each), each.accepted])) };
  const more = producers.length - most.length;
  show({
    'producers-note': more
      ? `and ${count(more)} more`
      : most.length
        ? ''
        : 'No process of this host is connected to the ring.',
  });
}

document.addEventListener('visibilitychange', () => {
  if (document.hidden) {
    // Nobody looks: nothing is asked until somebody does.
    clearTimeout(timer);
    polling?.abort();
    setStale(true);
    show({ live: 'Waiting' });
    byId('live').dataset.state = 'unknown';
    forgetRates();
    producersBefore = null;
  } else {
    producersDueMs = 0;
    poll();
  }
});

byId('pause').addEventListener('click', async () => {
  await pauseOrResume(latest.flow.queue_state.paused);
  poll();
});

byId('log-out').addEventListener('click', async () => {
  await post('logout', {}).catch(() => {});
  location.reload();
});

new Doctor();
if (!document.hidden) poll();
