// The last hour as small curves. The server keeps totals; the curves show what changed from one to the next.

import { age, byId, clock, make, rate, show } from './text.js';

const COLUMNS = ['taken_at_ms', 'accepted', 'delivered', 'refused', 'retries', 'oldest_age_s'];
const CURVES = [
  { name: 'accepted', label: 'Accepted', text: rate },
  { name: 'delivered', label: 'Delivered', text: rate },
  { name: 'oldest_age_s', label: 'Oldest event', text: age, isGauge: true },
  { name: 'retries', label: 'Tried again', text: rate },
];
const WIDTH = 240;
const HEIGHT = 44;

export class History {
  #points = [];
  #intervalS = 10;

  take({ interval_s, points }) {
    this.#intervalS = interval_s;
    this.#points = points.map((point) => Object.fromEntries(COLUMNS.map((column, index) => [column, point[index]])));
    const [first, last] = [this.#points[0], this.#points.at(-1)];
    const enough = this.#points.length > 1;
    show({
      'history-note': enough
        ? `${clock(first.taken_at_ms)} to ${clock(last.taken_at_ms)}`
        : "it fills while this page's server runs",
    });
    byId('sparklines').replaceChildren(...(enough ? CURVES.map((curve) => this.#figure(curve)) : []));
  }

  // Return the last known rate of a total, for the first seconds of the page; null if it is too old.
  rate(name) {
    const last = this.#points.at(-1);
    return last && Date.now() - last.taken_at_ms < 3000 * this.#intervalS
      ? (this.#values(name).at(-1)?.[1] ?? null)
      : null;
  }

  // Return [time, value] pairs. A total that fell was begun again, and what is not known leaves a gap (null).
  #values(name, isGauge = false) {
    if (isGauge) return this.#points.map((point) => [point.taken_at_ms, point[name]]);
    const rates = this.#points.slice(1).map((point, index) => {
      const before = this.#points[index];
      const grown = point[name] == null || before[name] == null ? null : point[name] - before[name];
      const perS = grown == null || grown < 0 ? null : (1000 * grown) / (point.taken_at_ms - before.taken_at_ms);
      return [point.taken_at_ms, perS];
    });
    return rates.length ? [[this.#points[0].taken_at_ms, rates[0][1]], ...rates] : [];
  }

  #figure({ name, label, text, isGauge }) {
    const values = this.#values(name, isGauge);
    const known = values.map(([, value]) => value).filter((value) => value != null);
    const most = Math.max(...known, 0);
    const now = values.at(-1)?.[1];
    const said = `${label}: now ${text(now)}, at most ${text(known.length ? most : null)} in this time`;
    return make(
      'figure',
      {},
      make(
        'figcaption',
        {},
        label,
        make('b', {}, text(now)),
        make('span', { class: 'hint' }, `at most ${text(known.length ? most : null)}`),
      ),
      make(
        'svg',
        {
          class: 'sparkline',
          viewBox: `0 0 ${WIDTH} ${HEIGHT}`,
          preserveAspectRatio: 'none',
          role: 'img',
          'aria-label': said,
        },
        ...curve(values, most),
      ),
    );
  }
}

function curve(values, most) {
  const [from, to] = [values[0][0], values.at(-1)[0]];
  const x = (ms) => (to > from ? ((ms - from) / (to - from)) * WIDTH : WIDTH).toFixed(1);
  const y = (value) => (HEIGHT - 2 - (most ? (value / most) * (HEIGHT - 6) : 0)).toFixed(1);
  const pieces = [[]];
  for (const [ms, value] of values) {
    if (value == null) pieces.push([]);
    else pieces.at(-1).push([x(ms), y(value)]);
  }
  return pieces
    .filter((piece) => piece.length)
    .flatMap((piece) => {
      const line = piece.map((point) => point.join(' ')).join('L');
      const [first, last] = [piece[0][0], piece.at(-1)[0]];
      return [
        make('path', { class: 'area', d: `M${first} ${HEIGHT}L${line}L${last} ${HEIGHT}Z` }),
        make('path', { class: 'line', d: `M${line}` }),
      ];
    });
}
