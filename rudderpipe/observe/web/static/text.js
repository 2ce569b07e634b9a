// Numbers, ages and sizes in words, and the elements that show them. Text is set as text, never as HTML.

const numbers = new Intl.NumberFormat('en-US');
const NONE = '–'; // what is not known is never shown as 0

export const count = (number) => (number == null ? NONE : numbers.format(number));

const plural = (noun) => noun + (noun.endsWith('ch') ? 'es' : 's');

export const counted = (number, noun) => `${count(number)} ${number === 1 ? noun : plural(noun)}`;

export const share = (part, whole) =>
  whole ? `${((100 * part) / whole).toFixed(part / whole < 0.1 ? 1 : 0)} %` : NONE;

export function rate(perS) {
  if (perS == null) return NONE;
  return `${perS > 0 && perS < 10 ? perS.toFixed(1) : count(Math.round(perS))}/s`;
}

export function age(seconds) {
  if (seconds == null) return NONE;
  if (seconds < 1) return `${Math.round(seconds * 1000)} ms`;
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  const units = [
    [86400, 'd'],
    [3600, 'h'],
    [60, 'min'],
    [1, 's'],
  ];
  const first = units.findIndex(([size]) => seconds >= size);
  const [size, name] = units[first];
  const text = `${Math.floor(seconds / size)} ${name}`;
  if (first === units.length - 1) return text;
  const [nextSize, nextName] = units[first + 1];
  return `${text} ${Math.floor((seconds % size) / nextSize)} ${nextName}`;
}

export function bytes(number) {
  if (number == null) return NONE;
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
  const power = number < 1024 ? 0 : Math.min(4, Math.floor(Math.log(number) / Math.log(1024)));
  const size = number / 1024 ** power;
  return `${power && size < 10 ? size.toFixed(1) : Math.round(size)} ${units[power]}`;
}

export const clock = (ms) => new Date(ms).toLocaleTimeString('en-GB');

export const moment = (ms) => new Date(ms).toLocaleString('en-GB', { dateStyle: 'medium', timeStyle: 'medium' });

export const byId = (id) => document.getElementById(id);

// An element with attributes, listeners (functions) and children (elements or text).
export function make(tag, attributes = {}, ...children) {
  const isSvg = ['svg', 'path', 'use', 'title'].includes(tag);
  const element = isSvg ? document.createElementNS('http://www.w3.org/2000/svg', tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === 'function') element.addEventListener(name, value);
    else if (value !== false) element.setAttribute(name, value === true ? '' : value);
  }
  element.append(...children);
  return element;
}

export const icon = (level) =>
  make('svg', { class: 'icon', 'aria-hidden': 'true' }, make('use', { href: `#${level}` }));

// Put texts into the elements that name them in data-t. An element that has the text already is left alone.
export function show(texts) {
  for (const [name, text] of Object.entries(texts)) {
    for (const element of document.querySelectorAll(`[data-t="${name}"]`)) {
      if (element.textContent !== text) element.textContent = text;
    }
  }
}

// Say the state of one part in words, with an icon.
export function state(name, level, text) {
  const element = document.querySelector(`[data-s="${name}"]`);
  if (element.dataset.level !== level || element.textContent !== text) {
    element.dataset.level = level;
    element.replaceChildren(icon(level), make('span', {}, text));
  }
}
