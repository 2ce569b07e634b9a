// Rates from totals. The server reads some totals only every few seconds, so only the moments of a change count.

const WINDOW_S = 15;
const STILL_S = 6; // a total that has not changed for so long is taken to stand still

export class Rates {
  #totals = new Map();

  add(atS, totals) {
    for (const [name, total] of Object.entries(totals)) {
      const known = this.#totals.get(name);
      if (total == null) {
        this.#totals.delete(name);
      } else if (!known || total < known.points.at(-1)[1]) {
        this.#totals.set(name, { sinceS: atS, nowS: atS, points: [[atS, total]] }); // new, or begun again
      } else {
        known.nowS = atS;
        if (total > known.points.at(-1)[1]) known.points.push([atS, total]);
        while (known.points.length > 2 && known.points[1][0] < atS - WINDOW_S) known.points.shift();
      }
    }
  }

  // Return events a second, and null while they are not known.
  of(name) {
    const { sinceS, nowS, points } = this.#totals.get(name) ?? { points: [] };
    if (!points.length) return null;
    // The moment of the first sight says nothing about the moment of a change, unless it was long ago.
    const [first, second] = points[0][0] === sinceS && points.length > 2 ? points.slice(1) : points;
    const last = points.at(-1);
    const isNew = nowS - sinceS < STILL_S;
    if (!second || last[0] < nowS - WINDOW_S) return isNew ? null : 0;
    if (points.length === 2 && isNew) return null;
    return (last[1] - first[1]) / (Math.max(last[0], nowS - STILL_S) - first[0]);
  }

  forget() {
    this.#totals.clear();
  }
}

// Return the quantile of a histogram with cumulative buckets ([upper bound, total]), as Prometheus estimates it.
export function quantile(buckets, part) {
  const all = buckets?.at(-1)?.[1];
  if (!all) return null;
  const index = buckets.findIndex(([, total]) => total >= part * all);
  const [lower, below] = index ? buckets[index - 1] : [0, 0];
  const [upper, total] = buckets[index];
  return upper == null ? lower : lower + ((upper - lower) * (part * all - below)) / (total - below);
}
