// What `rudderpipe doctor` finds, on demand.

import { get, sentence } from './api.js';
import { byId, clock, counted, icon, make } from './text.js';

const LEVELS = { ok: 'ok', warn: 'warning', fail: 'trouble', skip: 'unknown' };
const WORDS = { ok: 'OK', warn: 'Warning', fail: 'Failure', skip: 'Skipped' };
const ORDER = ['fail', 'warn', 'skip', 'ok'];
const PATIENCE_MS = 120_000;

export class Doctor {
  constructor() {
    byId('examine').addEventListener('click', () => this.#examine());
  }

  async #examine() {
    const button = byId('examine');
    const said = byId('doctor-said');
    button.setAttribute('aria-disabled', 'true');
    said.textContent = 'Examining: this takes some seconds…';
    try {
      const found = await get('api/doctor', PATIENCE_MS);
      const bad = `${counted(found.warn, 'warning')}, ${counted(found.fail, 'failure')}`;
      said.textContent = `Examined at ${clock(Date.now())}: ${found.ok} ok, ${bad}, ${found.skip} skipped.`;
      const worst = [...found.checks].sort((one, other) => ORDER.indexOf(one.state) - ORDER.indexOf(other.state));
      byId('checks').replaceChildren(...worst.map(row));
    } catch (error) {
      said.textContent = sentence(error);
    }
    button.removeAttribute('aria-disabled');
  }
}

function row({ state, check, text, fix }) {
  return make(
    'li',
    { 'data-level': LEVELS[state] },
    icon(LEVELS[state]),
    make(
      'div',
      {},
      make('p', {}, make('strong', {}, `${WORDS[state]} · ${check}: `), text),
      ...(fix ? [make('p', { class: 'fix' }, make('strong', {}, 'What to do: '), fix)] : []),
    ),
  );
}
