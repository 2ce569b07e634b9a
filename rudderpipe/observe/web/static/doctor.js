// What `rudderpipe doctor` finds, on demand.

import { get, sentence } from './api.js';
import { finding } from './finding.js';
import { byId, clock, counted } from './text.js';

const LEVELS = { ok: 'ok', warn: 'warning', fail: 'trouble', skip: 'unknown' };
const WORDS = { ok: 'OK', warn: 'Warning', fail: 'Failure', skip: 'Skipped' };
const ORDER = ['fail', 'warn', 'skip'];
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
      const worst = found.checks.filter((each) => each.state !== 'ok').sort((one, other) => rank(one) - rank(other));
      const fine = found.checks.filter((each) => each.state === 'ok');
      byId('checks').replaceChildren(...worst.map(row));
      byId('fine').replaceChildren(...fine.map(row));
      byId('fine-summary').textContent = `What is ok: ${counted(fine.length, 'check')}`;
      byId('fine-summary').parentElement.hidden = !fine.length;
    } catch (error) {
      said.textContent = sentence(error);
    }
    button.removeAttribute('aria-disabled');
  }
}

const rank = ({ state }) => ORDER.indexOf(state);

const row = ({ state, check, text, fix }) =>
  finding({ level: LEVELS[state], title: `${WORDS[state]} · ${check}`, text, fix });
