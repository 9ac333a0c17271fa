// Lines over the optimizer step, with their intervals where they have some, and what they say under the pointer.

const curves = (() => {
  const SMALL = { width: 320, height: 170, left: 52, right: 10, top: 8, bottom: 22 };
  const LABEL = 14; // height of one
  const LARGE = { width: 520, height: 280, left: 44, right: 190, top: 8, bottom: 24 };

  /**
   * Draw a panel.
   *
   * @param {object} panel
   * @param {string} panel.name
   * @param {{points: number[][], kind: string, label?: string}[]} panel.lines points are [step, value] or [step, value,
   *   low, high]; the kind is a class; a label is written at the line's end, on panels that are large
   * @param {number[]} [panel.range] lowest and highest value; by default that of the lines
   * @param {number} [panel.middle] a value to be marked
   * @param {number | null} [panel.kept] the step whose weights were kept
   * @param {boolean} [panel.isLarge]
   */
  function panel({ name, lines, range, middle, kept, isLarge = false }) {
    const size = isLarge ? LARGE : SMALL;
    const points = lines.flatMap((line) => line.points);
    const [left, right] = [Math.min(...points.map(([step]) => step)), Math.max(...points.map(([step]) => step), 1)];
    const [bottom, top] = range ?? charts.extent(points.flatMap(([, ...values]) => values));
    const x = (step) => size.left + ((step - left) / (right - left || 1)) * (size.width - size.left - size.right);
    const y = (value) =>
      size.height - size.bottom - ((value - bottom) / (top - bottom)) * (size.height - size.top - size.bottom);
    const [first, last] = [size.left, size.width - size.right];
    const reading = h("output", {});
    const drawing = s(
      "svg",
      { viewBox: `0 0 ${size.width} ${size.height}`, role: "img", "aria-label": `${name} over the optimizer step` },
      charts
        .ticks(bottom, top, 5)
        .map((value) => [
          s("line", { class: "grid", x1: first, x2: last, y1: y(value), y2: y(value) }),
          s("text", { class: "tick", x: first - 6, y: y(value) + 4, "text-anchor": "end" }, charts.label(value)),
        ]),
      charts
        .ticks(left, right, 4)
        .map((step) =>
          s("text", { class: "tick", x: x(step), y: size.height - 6, "text-anchor": "middle" }, charts.label(step)),
        ),
      middle !== undefined && s("line", { class: "half", x1: first, x2: last, y1: y(middle), y2: y(middle) }),
      Number.isFinite(kept) &&
        s(
          "line",
          { class: "kept", x1: x(kept), x2: x(kept), y1: size.top, y2: size.height - size.bottom },
          s("title", {}, `step ${kept} was kept`),
        ),
      lines.map((line) => s("path", { class: `band ${line.kind}`, d: band(line.points, x, y) })),
      lines.map((line) => s("path", { class: `curve ${line.kind}`, d: path(line.points, x, y) })),
      isLarge && labels(lines, last + 8, y, size.height - size.bottom),
    );
    drawing.addEventListener("pointermove", (event) => {
      const box = drawing.getBoundingClientRect();
      const across = ((event.clientX - box.left) / box.width) * size.width;
      const step = left + ((across - first) / (last - first)) * (right - left);
      reading.textContent = readings(lines, step);
    });
    drawing.addEventListener("pointerleave", () => (reading.textContent = ""));
    return h("figure", {}, h("figcaption", {}, h("b", {}, name), reading), drawing);
  }

  /** Return a line through the points, broken where a figure was not a number. */
  function path(points, x, y) {
    let isOpen = false;
    return points
      .map(([step, value]) => {
        const command = isOpen ? "L" : "M";
        isOpen = value !== null;
        return isOpen ? `${command}${x(step).toFixed(1)},${y(value).toFixed(1)}` : "";
      })
      .join("");
  }

  /** Return the outline of the intervals; nothing where there are none. */
  function band(points, x, y) {
    const known = points.filter(([, , low, high]) => Number.isFinite(low) && Number.isFinite(high));
    if (known.length < 2) return "";
    const above = known.map(([step, , , high]) => `${x(step).toFixed(1)},${y(high).toFixed(1)}`);
    const below = known.map(([step, , low]) => `${x(step).toFixed(1)},${y(low).toFixed(1)}`).reverse();
    return `M${[...above, ...below].join("L")}Z`;
  }

  /** Write the labels right of the lines' ends, moved where they would lie on one another or below the panel. */
  function labels(lines, left, y, bottom) {
    const ends = lines
      .filter((line) => line.label && line.points.length > 0)
      .map((line) => ({ ...line, top: y(line.points.at(-1)[1] ?? 0) + 4 }))
      .sort((one, other) => one.top - other.top);
    let highest = bottom + LABEL;
    for (const end of ends.toReversed()) highest = end.top = Math.min(end.top, highest - LABEL);
    return ends.map(({ label, kind, top }) => s("text", { class: `end ${kind}`, x: left, y: top }, label));
  }

  /** Write what the lines say at the step nearest to one. */
  function readings(lines, step) {
    const nearest = lines
      .filter((line) => line.points.length > 0)
      .map((line) =>
        line.points.reduce((best, point) => (Math.abs(point[0] - step) < Math.abs(best[0] - step) ? point : best)),
      );
    const values = nearest.map(([, value]) => (value === null ? "not a number" : String(Number(value.toPrecision(4)))));
    return ` step ${nearest[0][0]}: ${values.join(", ")}`;
  }

  return { panel };
})();
