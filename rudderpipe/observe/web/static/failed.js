// The failed jobs: filter, show, retry, delete. In direct mode they are the dead letters.

import { get, sentence } from './api.js';
import { change } from './changes.js';
import { openJob } from './job.js';
import { age, byId, count, counted, make, moment, show } from './text.js';

const PAGE = 50;
const RELOAD_MS = 3000; // at most so often while jobs fail

const keyOf = (job) => `${job.id} ${job.failed_at_ms}`; // a job that was retried may fail again

export class FailedJobs {
  #flow = null;
  #nowMs = 0; // by the server's clock
  #jobs = [];
  #next = null;
  #total = 0;
  #events = null;
  #away = {}; // why queues cannot be read, by their prefixes
  #pages = 1;
  #filter = {};
  #chosen = new Set();
  #rows = new Map();
  #loads = 0;
  #loadedFor = null; // the number of failed jobs and the access that the list was loaded for
  #loadedAtMs = -RELOAD_MS;

  constructor() {
    byId('filter').addEventListener('submit', (event) => this.#setFilter(event));
    byId('more').addEventListener('click', () => this.#load(this.#pages + 1));
    byId('select-all').addEventListener('change', (event) => this.#chooseAll(event.target.checked));
    for (const button of byId('bulk').querySelectorAll('button')) {
      button.addEventListener('click', () =>
        this.#change(button.dataset.act, button.dataset.of === 'all' ? null : [...this.#chosen]),
      );
    }
  }

  // Load the list again when the number of failed jobs is another one.
  follow(flow, nowMs) {
    this.#flow = flow;
    this.#nowMs = nowMs;
    this.#showAges();
    const isDirect = flow.mode === 'direct';
    show({ 'failed-title': isDirect ? 'Dead letters' : 'Failed jobs' });
    const number = isDirect ? flow.dead_letters?.batches : flow.queue_state?.failed;
    const now = `${number} ${flow.access} ${flow.shows_events}`;
    if (number == null && this.#loadedFor !== now) {
      [this.#jobs, this.#next, this.#total, this.#loadedFor] = [[], null, null, now];
      this.#show();
    }
    if (number == null || now === this.#loadedFor || performance.now() - this.#loadedAtMs < RELOAD_MS) return;
    this.#loadedFor = now;
    this.#load(this.#pages);
  }

  get #mayAct() {
    return this.#flow?.access === 'all';
  }

  get #noun() {
    return this.#flow.mode === 'direct' ? 'batch' : 'job';
  }

  get #isFiltered() {
    return Object.keys(this.#filter).length > 0;
  }

  #query(extra = {}) {
    return new URLSearchParams({ ...this.#filter, ...extra }).toString();
  }

  async #setFilter(event) {
    event.preventDefault();
    const { q, since } = event.target.elements;
    this.#filter = {
      ...(q.value ? { q: q.value } : {}),
      ...(since.value ? { since_ms: this.#flow.taken_at_ms - 1000 * since.value } : {}),
    };
    this.#chosen.clear();
    await this.#load(1);
  }

  async #load(pages) {
    this.#loadedAtMs = performance.now();
    const mine = ++this.#loads;
    try {
      const jobs = [];
      let page = { next: '' };
      for (let number = 0; number < pages && page.next !== null; number++) {
        page = await get(`api/failed?${this.#query({ limit: PAGE, ...(page.next ? { after: page.next } : {}) })}`);
        jobs.push(...page.jobs);
      }
      if (mine !== this.#loads) return; // a later filter has been set meanwhile
      [this.#jobs, this.#pages] = [jobs, pages];
      [this.#next, this.#total, this.#events, this.#away] = [page.next, page.total, page.total_events, page.away];
      this.#show();
    } catch (error) {
      this.#loadedFor = null; // load it again
      byId('failed-rights').textContent = sentence(error);
    }
  }

  #show() {
    const there = new Set(this.#jobs.map((job) => job.id));
    for (const id of this.#chosen) if (!there.has(id)) this.#chosen.delete(id);
    // A row that stays keeps its element, so that the focus stays too.
    const list = byId('jobs');
    const rows = new Map(this.#jobs.map((job) => [keyOf(job), this.#rows.get(keyOf(job)) ?? this.#row(job)]));
    for (const row of [...list.children]) if (![...rows.values()].includes(row)) row.remove();
    [...rows.values()].forEach(
      (row, index) => list.children[index] !== row && list.insertBefore(row, list.children[index] ?? null),
    );
    this.#rows = rows;
    for (const element of list.querySelectorAll('.act')) element.hidden = !this.#mayAct;
    const events = this.#events == null ? '' : `, ${counted(this.#events, 'event')}`;
    show({
      'failed-hint': this.#total
        ? `${counted(this.#total, this.#noun)}${events}${this.#isFiltered ? ' match the filter' : ''}`
        : '',
    });
    byId('more').hidden = this.#next === null;
    byId('more').textContent = `Show more (${count(this.#jobs.length)} of ${count(this.#total)})`;
    byId('bulk').hidden = !this.#mayAct || !this.#total;
    byId('download').hidden = !(this.#flow.shows_events && this.#mayAct);
    byId('failed-rights').textContent = this.#rights();
    this.#showChosen();
    this.#showAges();
  }

  #showAges() {
    for (const job of this.#jobs) {
      const ageS = Math.max(0, this.#nowMs - job.failed_at_ms) / 1000;
      this.#rows.get(keyOf(job)).querySelector('.age').textContent = `${age(ageS)} ago`;
    }
  }

  // What may be done, and how to get what may not.
  #rights() {
    if (this.#total === null) return 'Not known while Redis cannot be read.';
    const away = Object.keys(this.#away);
    const without = away.length ? `Without those of ${away.join(', ')}, which cannot be read. ` : '';
    const none = this.#isFiltered ? `No failed ${this.#noun} matches the filter. ` : 'None: no event has failed. ';
    return `${without}${this.#total || without ? '' : none}${this.#mayAct ? this.#whyNoEvents() : this.#whyReadOnly()}`;
  }

  #whyNoEvents() {
    return this.#flow.shows_events ? '' : 'What is in events is not shown: the server runs without --show-events.';
  }

  #whyReadOnly() {
    if (this.#flow.can_log_in) return 'Read only: log in with the token to retry, delete or pause.';
    return (
      'Read only: to retry, delete or pause, start rudderpipe web with --token-file and log in with that token. ' +
      'Where this page is part of an application, the application decides.'
    );
  }

  #row(job) {
    const name = `${this.#noun} ${job.id}`;
    const choose = make('input', {
      type: 'checkbox',
      class: 'act',
      'aria-label': `Select ${name}`,
      value: job.id,
      change: (event) => this.#choose(job.id, event.target.checked),
    });
    const button = (text, options, act) =>
      make('button', { ...options, 'aria-label': `${text} ${name}`, click: act }, text);
    return make(
      'li',
      {},
      choose,
      make(
        'span',
        { class: 'name' },
        make('b', {}, job.id),
        make('span', { class: 'hint age', title: moment(job.failed_at_ms) }),
      ),
      make('span', { class: 'size' }, job.readable ? counted(job.events, 'event') : 'not readable'),
      make('span', { class: 'reason' }, job.reason || 'no reason is written down'),
      make(
        'span',
        { class: 'buttons' },
        button('Show', {}, () => this.#open(job.id, name)),
        button('Retry', { class: 'act' }, () => this.#change('retry', [job.id])),
        button('Delete', { class: 'act danger' }, () => this.#change('delete', [job.id])),
      ),
    );
  }

  #choose(id, isChosen) {
    if (isChosen) this.#chosen.add(id);
    else this.#chosen.delete(id);
    this.#showChosen();
  }

  #chooseAll(isChosen) {
    this.#chosen = new Set(isChosen ? this.#jobs.map((job) => job.id) : []);
    this.#showChosen();
  }

  #showChosen() {
    const chosen = this.#chosen.size;
    for (const box of byId('jobs').querySelectorAll('input')) box.checked = this.#chosen.has(box.value);
    byId('download').href =
      `api/failed.ndjson?${chosen ? new URLSearchParams({ ids: [...this.#chosen] }) : this.#query()}`;
    byId('download').textContent = `Download the events of ${chosen ? 'the selected' : 'all'} (NDJSON)`;
    byId('select-all').checked = chosen > 0 && chosen === this.#jobs.length;
    byId('select-all').indeterminate = chosen > 0 && chosen < this.#jobs.length;
    for (const button of byId('bulk').querySelectorAll('button')) {
      const verb = button.dataset.act === 'retry' ? 'Retry' : 'Delete';
      const isAll = button.dataset.of === 'all';
      button.textContent = isAll
        ? `${verb} all ${count(this.#total)}…`
        : `${verb} selected${chosen ? ` (${chosen})` : ''}…`;
      button.disabled = !isAll && !chosen;
    }
  }

  async #open(id, name) {
    await openJob(id, name).catch((error) => this.#say(sentence(error)));
  }

  // Retry or delete some jobs (ids), or all that match the filter (null).
  async #change(act, ids) {
    const about = { ids, total: this.#total, filter: this.#filter, noun: this.#noun };
    const said = await change(act, { ...about, asksFirst: this.#flow.mode === 'redis' }).catch(sentence);
    if (said === null) return;
    this.#say(said);
    this.#chosen.clear();
    await this.#load(1);
  }

  #say(text) {
    byId('failed-said').textContent = text;
  }
}
