// The dialog that asks before something is changed. It stays open until that is done, and when it went wrong.

import { sentence } from './api.js';
import { byId, count, show } from './text.js';

// Return what work() returned, or null if it failed or the person did not confirm.
// With `typed`, the person must type that number. work() is called with the answer to "first", and a function that
// shows how far it is.
export function confirm({ title, text, yes, isDanger = false, typed = null, asksFirst = false, work }) {
  const dialog = byId('confirm');
  const form = dialog.querySelector('form');
  const [button, cancel, input] = [byId('confirm-yes'), byId('confirm-no'), form.elements.typed];
  form.reset();
  show({ 'confirm-title': title, 'confirm-text': text, 'confirm-yes': yes, 'confirm-error': '' });
  show({ 'confirm-label': `Type ${count(typed)} to confirm` });
  byId('confirm-typed').hidden = typed === null;
  byId('confirm-first').hidden = !asksFirst;
  button.className = isDanger ? 'danger main' : 'main';
  const check = () => {
    button.disabled = typed !== null && input.value.replace(/[\s,.]/g, '') !== String(typed);
  };
  check();
  input.oninput = check;
  cancel.onclick = () => dialog.close();
  let working = null; // a promise of what comes of it
  form.onsubmit = async (event) => {
    event.preventDefault();
    if (button.disabled) return;
    button.disabled = cancel.disabled = true;
    working = work(form.elements.first.checked, (said) => show({ 'confirm-text': said })).catch((error) => {
      show({ 'confirm-error': sentence(error) });
      return null;
    });
    const done = await working;
    cancel.disabled = false;
    if (done) dialog.close();
    else cancel.focus();
  };
  return new Promise((resolve) => {
    dialog.onclose = () => resolve(working);
    dialog.showModal();
    (typed === null ? cancel : input).focus();
  });
}
