// One row of what is wrong: an icon, what it is, and what to do.

import { icon, make } from './text.js';

export function finding({ level, code = '', title, text, fix, runbook }) {
  const heading = runbook
    ? [' ', make('span', { class: 'hint' }, 'Runbook: ', make('code', {}, `Rudderpipe${runbook}`))]
    : [];
  const toDo = [make('strong', {}, 'What to do: '), ...withCode(fix), ...heading];
  const said = make('p', {}, make('strong', {}, `${title}: `), ...withCode(text));
  const body = make('div', {}, said, ...(fix ? [make('p', { class: 'fix' }, ...toDo)] : []));
  return make('li', { 'data-level': level, 'data-code': code }, icon(level), body);
}

// What stands between backticks is code.
const withCode = (text) => text.split('`').map((part, index) => (index % 2 ? make('code', {}, part) : part));
