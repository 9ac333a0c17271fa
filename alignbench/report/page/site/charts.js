// What all charts share: axes.

const charts = (() => {
  /** Return round numbers between two ends, about as many as asked for. */
  function ticks(low, high, about = 5) {
    const rough = (high - low) / about;
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].map((factor) => factor * power).find((one) => one >= 0.999 * rough);
    const first = Math.ceil(low / step - 1e-9);
    return Array.from({ length: Math.floor(high / step + 1e-9) - first + 1 }, (_, i) => (first + i) * step);
  }

  /** Return powers of ten, with 2 and 5 times them, between two positive ends. */
  function logarithmicTicks(low, high) {
    const powers = Array.from({ length: 30 }, (_, i) => 10 ** (i - 15));
    const all = powers.flatMap((power) => [power, 2 * power, 5 * power]).filter((one) => one >= low && one <= high);
    return all.length > 6 ? powers.filter((one) => one >= low && one <= high) : all;
  }

  /** Write a number of an axis. */
  function label(value) {
    const rounded = Number(value.toPrecision(4));
    return rounded !== 0 && Math.abs(rounded) < 1e-3 ? rounded.toExponential() : String(rounded);
  }

  /** Return the lowest and the highest number with some room on either side. */
  function extent(values, room = 0.08) {
    const known = values.filter((value) => value !== null && Number.isFinite(value));
    const [low, high] = [Math.min(...known), Math.max(...known)];
    const margin = room * (high - low || Math.abs(high) || 1);
    return [low - margin, high + margin];
  }

  const LETTER = 7; // mean width of one, in the units of a drawing

  /** Return the width that names need left of a drawing, and the width that is left to it. */
  function besideNames(names) {
    const left = Math.max(60, 14 + LETTER * Math.max(...names.map((name) => name.length)));
    return [left, Math.max(130, 310 - left)];
  }

  /** Move heights apart, so that texts at them do not lie on one another, within `top` and `bottom` if there is room. */
  function apart(heights, gap, top, bottom) {
    const order = [...heights.keys()].sort((a, b) => heights[a] - heights[b]);
    const moved = [...heights];
    let before = top - gap;
    for (const i of order) before = moved[i] = Math.max(moved[i], before + gap);
    let after = bottom + gap;
    for (const i of order.toReversed()) after = moved[i] = Math.min(moved[i], after - gap);
    return moved;
  }

  return { ticks, logarithmicTicks, label, extent, besideNames, apart };
})();
