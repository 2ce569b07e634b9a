// One flow, as api/flow gives it, in the cards, the account and the table of refused events.

import { quantile, Rates } from './rates.js';
import { age, bytes, byId, count, counted, make, rate, share, show, state } from './text.js';

const rates = new Rates();
const REFUSALS = {
  full: 'the ring was full (max_internal_queue_size)',
  no_block: 'the shared memory of the ring was used up (ring_bytes)',
  busy: 'another process held the ring too long',
  no_slot: 'too many processes use the ring',
  ring: 'the ring could not be made or opened',
  too_large: 'the event was larger than 4 MB',
  invalid: 'the event was wrong',
  closed: 'the client had been shut down',
  dropped: 'before_send or sampling left it out, as intended',
};
const PLACES = {
  in_ring: 'in the ring',
  spilled: 'in the spill, on disk',
  queued: 'queued',
  delivered: 'delivered',
  failed: 'failed',
  removed: 'removed by hand',
  elsewhere: 'taken by others',
  corrupt: 'damaged',
  lost: 'lost with Redis',
};
const STUCK_S = 5; // a job may wait so long, even where nothing else happens
const RARE = ['spilled', 'removed', 'elsewhere', 'corrupt', 'lost']; // shown only when there are some

export function forgetRates() {
  rates.forget();
}

export function showFlow(flow, atS, history) {
  const refused = flow.producers.refused_by_reason;
  const report = flow.sender?.report;
  rates.add(atS, {
    in: flow.producers.accepted,
    left: flow.ring?.left,
    out: flow.account.delivered,
    attempts: report && sum(report.attempts),
    retry: report?.attempts.retry,
    refused: flow.producers.refused,
    ...Object.fromEntries(Object.entries(refused).map(([reason, total]) => [`refused ${reason}`, total])),
  });
  const inS = rates.of('in') ?? history.rate('accepted');
  const outS = rates.of('out') ?? history.rate('delivered');
  showProducers(flow.producers, inS);
  showRing(flow.ring);
  byId('queue-card').hidden = byId('sender-card').hidden = flow.mode === 'direct';
  if (flow.mode === 'redis') {
    showQueue(flow, outS);
    showSender(flow, outS);
  }
  showPlane(flow, report, outS);
  showAccount(flow.account, flow.mode);
  showRefusals(refused);
  byId('producers-card').classList.toggle('moves', inS > 0);
  byId('ring-card').classList.toggle('moves', rates.of('left') > 0);
  byId('queue-card').classList.toggle('moves', outS > 0);
  byId('sender-card').classList.toggle('moves', outS > 0);
}

const sum = (totals) => Object.values(totals).reduce((all, each) => all + each, 0);

function showProducers(producers, inS) {
  const refusedS = rates.of('refused');
  show({
    'in-rate': rate(inS),
    processes: count(producers.processes),
    accepted: count(producers.accepted),
    refused: count(producers.refused),
    'refused-rate': rate(refusedS),
  });
  if (refusedS > 0) state('producers', 'warning', 'Calls are refused');
  else if (!producers.processes) state('producers', 'unknown', 'No process is connected');
  else state('producers', 'ok', inS > 0 ? 'Events come in' : 'Connected, no events now');
}

function showRing(ring) {
  show({
    'ring-events': count(ring?.events),
    'ring-filled': ring ? share(ring.fill, 1) : '–',
    'ring-capacity': count(ring?.capacity),
    'ring-oldest': ring?.events ? age(ring.oldest_age_s) : '–',
    flusher: ring?.flusher_pid == null ? 'none' : ring.flusher_pid ? `pid ${ring.flusher_pid}` : 'another container',
    heartbeat: ring?.heartbeat_age_s == null ? '–' : `${age(ring.heartbeat_age_s)} ago`,
    'left-rate': rate(rates.of('left')),
  });
  fill('ring-fill', ring?.fill, 1);
  if (!ring) state('ring', 'unknown', 'There is no ring on this host');
  else if (ring.flusher_pid == null && ring.events) state('ring', 'trouble', 'No flusher empties it');
  else if (ring.sink_down_s > 0) state('ring', 'trouble', `Cannot hand over for ${age(ring.sink_down_s)}`);
  else if (ring.fill >= 1) state('ring', 'trouble', 'Full');
  else if (ring.fill > 0.8) state('ring', 'warning', 'Nearly full');
  else if (ring.flusher_pid == null) state('ring', 'unknown', 'Empty, without a flusher');
  else state('ring', 'ok', !ring.events ? 'Empty' : rates.of('left') === 0 ? 'Waiting for more events' : 'Moving');
}

function showQueue({ queue_state: queue, queue_trouble: trouble }, outS) {
  const jobs = queue && queue.waiting + queue.active + queue.delayed;
  show({
    jobs: count(jobs),
    'queue-memory': bytes(queue?.used_bytes),
    'queue-limit': queue && !queue.max_bytes ? 'no limit' : bytes(queue?.max_bytes),
    'queue-oldest': jobs ? age(queue.oldest_job_age_s) : '–',
    waiting: count(queue?.waiting),
    active: count(queue?.active),
    delayed: count(queue?.delayed),
    'failed-jobs': count(queue?.failed),
  });
  fill('queue-fill', queue?.used_bytes, queue?.max_bytes);
  if (!queue) state('queue', 'trouble', trouble ? 'Redis cannot be read' : 'Not known');
  else if (trouble) state('queue', 'trouble', 'Some queues cannot be read');
  else if (queue.paused) state('queue', jobs ? 'trouble' : 'warning', 'Paused: no job is taken');
  else if (queue.max_bytes && queue.used_bytes > 0.8 * queue.max_bytes) state('queue', 'warning', 'Nearly full');
  else if (jobs && outS === 0 && queue.oldest_job_age_s > STUCK_S) state('queue', 'warning', 'Jobs wait');
  else if (queue.oldest_job_age_s > 300 && jobs) state('queue', 'warning', 'Jobs wait for long');
  else state('queue', 'ok', jobs ? 'Moving' : 'Empty');
}

function showSender({ sender, queue_state: queue, account }, outS) {
  const lanes = queue?.lanes.filter((each) => each.lane) ?? [];
  const retrying = lanes.filter((each) => each.retrying).length;
  show({
    'out-rate': rate(outS),
    'sender-host': sender?.host ?? 'none',
    'sender-pid': sender ? `pid ${sender.pid}` : '–',
    delivered: count(account.delivered),
    lanes: lanes.length ? counted(lanes.length, 'lane') + (retrying ? `, ${retrying} tried again` : '') : '–',
  });
  if (!queue) state('sender', 'unknown', 'Not known without Redis');
  else if (!sender && queue.waiting + queue.active + queue.delayed)
    state('sender', 'trouble', 'No sender takes the jobs');
  else if (!sender) state('sender', 'unknown', 'None, and no job waits');
  else if (queue.paused) state('sender', 'unknown', 'Stands by: the queue is paused');
  else if (sender.report?.retry_in_s > 0) state('sender', 'warning', 'Waits to try again');
  else state('sender', 'ok', outS > 0 ? 'Delivers' : 'Ready');
}

let reports = []; // of the last minute, for the times of its requests

function showPlane(flow, report, outS) {
  if (report && report.written_ms !== reports.at(-1)?.written_ms) reports.push(report);
  const last = reports.at(-1);
  reports = reports.filter(
    (each) => report && each.started_ms === last.started_ms && each.written_ms > last.written_ms - 60_000,
  );
  const buckets = lastMinute(report?.attempt_s_buckets, reports[0]?.attempt_s_buckets);
  const attemptsS = rates.of('attempts');
  show({
    p50: report ? age(quantile(buckets, 0.5)) : '–',
    p95: report ? age(quantile(buckets, 0.95)) : '–',
    'attempt-rate': rate(attemptsS),
    retried: attemptsS ? share(rates.of('retry') ?? 0, attemptsS) : '–',
    'retry-in': report?.retry_in_s > 0 ? `in ${age(report.retry_in_s)}` : '–',
    plane: URL.canParse(flow.data_plane) ? new URL(flow.data_plane).host : flow.data_plane,
    'last-reason': report && report.last_class !== 'http_2xx' ? report.last_reason : '',
  });
  const kind = (report?.last_class ?? '').replace(/^http_/, 'status ');
  if (!report) state('plane', outS > 0 ? 'ok' : 'unknown', outS > 0 ? 'Takes events' : 'No report yet');
  else if (!report.last_class) state('plane', 'unknown', 'Not asked yet');
  else if (report.last_class === 'http_2xx') state('plane', 'ok', 'Takes events');
  else state('plane', 'trouble', `Last attempt: ${kind}`);
}

// Without a request in the last minute, the times since the sender's start are shown.
function lastMinute(now, before) {
  if (!now || !before || now.at(-1)[1] === before.at(-1)[1]) return now;
  return now.map(([bound, total], index) => [bound, total - before[index][1]]);
}

function showAccount(account, mode) {
  const when = mode === 'redis' ? ', when Redis was last read' : '';
  const whose = account.of_queues ? ', of all pipes and hosts that use the queue, as this pipe has no ring here' : '';
  show({ 'account-hint': `every accepted event, by the place where it is${whose}${when}` });
  const places = Object.keys(PLACES).filter((place) => account[place] || !RARE.includes(place));
  const terms = [['accepted', 'accepted'], ...places.map((place) => [place, PLACES[place]])];
  const text = terms.map(([name]) => account[name]).join();
  if (byId('sum').dataset.shown !== text) {
    byId('sum').dataset.shown = text;
    byId('sum').replaceChildren(
      ...terms.flatMap(([name, label], index) => [
        ...(index ? [make('span', { class: 'sign' }, index === 1 ? ' = ' : ' + ')] : []),
        make('span', { class: 'term' }, make('b', {}, count(account[name])), ` ${label}`),
      ]),
    );
  }
  if (account.balanced) state('account', 'ok', 'In balance: every accepted event is in one of these places.');
  else state('account', 'trouble', 'Out of balance: ring and Redis disagree about where the events are.');
}

function showRefusals(refused) {
  const rows = Object.entries({
    ...Object.fromEntries(Object.keys(REFUSALS).map((reason) => [reason, 0])),
    ...refused,
  });
  const body = byId('refusals');
  if (body.rows.length !== rows.length) {
    body.replaceChildren(
      ...rows.map(([reason]) =>
        make(
          'tr',
          {},
          make('th', { scope: 'row' }, make('code', {}, reason)),
          make('td', {}, REFUSALS[reason] ?? ''),
          make('td', { class: 'number', 'data-t': `refused ${reason}` }),
          make('td', { class: 'number', 'data-t': `now ${reason}` }),
        ),
      ),
    );
  }
  for (const [index, [reason, total]] of rows.entries()) {
    show({ [`refused ${reason}`]: count(total), [`now ${reason}`]: rate(rates.of(`refused ${reason}`)) });
    body.rows[index].classList.toggle('none', !total);
  }
}

function fill(id, part, whole) {
  const meter = byId(id);
  meter.hidden = part == null || !whole;
  const percent = meter.hidden ? 0 : Math.min(100, (100 * part) / whole);
  meter.setAttribute('aria-valuenow', percent.toFixed(0));
  meter.dataset.level = percent >= 100 ? 'trouble' : percent > 80 ? 'warning' : 'ok';
  meter.firstElementChild.style.width = `${percent}%`;
}
