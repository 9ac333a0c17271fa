// What it costs: the score against what training spent, and who is beaten by nobody cheaper.

const cost = (() => {
  const WIDTH = 500;
  const EDGE = { left: 52, right: 168, top: 14, bottom: 40 };
  const LABEL = 13; // height of one
  const UNITS = [
    ["device_hours", "device-hours"],
    ["network_passes", "network passes"],
    ["optimizer_steps", "updates"],
    ["samples_seen", "samples"],
  ];

  function view(main, now) {
    const unit = UNITS.find(([key]) => key === now.unit) ?? UNITS[0];
    const sections = report.chosen(now);
    const parts = sections.map((section) =>
      h(
        "section",
        {},
        sectionHeading(section),
        h(
          "div",
          { class: "charts" },
          report.evaluatorsOf(section, now).map(([number, evaluator]) => chart(section, number, evaluator, unit)),
        ),
        plainTable(section.cost),
      ),
    );
    const legend = h(
      "p",
      {},
      `${report.summary(sections, now)} score against the ${unit[1]} of training, bars are 95 % intervals. Line: each method on it scores above all that cost as much or less; hollow: trained on the evaluator, left out of the line. Dashed: base, which costs no training.`,
    );
    const chooser = segments("Cost in", "unit", UNITS, unit[0], (value) => state.change({ unit: value }));
    main.replaceChildren(chooser, legend, ...parts, noteList(sections, ["trained_on"]));
  }

  function chart(section, number, evaluator, [unit, unitName]) {
    const points = section.methods
      .map((method) => ({
        ...method,
        cost: method.spent[unit],
        row: section.rows.find((row) => row.method === method.method && row.evaluator === number),
      }))
      .filter((point) => point.row);
    const trained = points.filter((point) => point.cost > 0);
    const base = points.find((point) => point.isBase);
    const unknown = points
      .filter((point) => !point.isBase && !point.isData && point.cost <= 0)
      .map((point) => point.method);
    const remark = unknown.length > 0 ? `Not drawn, as what they cost is not known: ${unknown.join(", ")}.` : "";
    const caption = h("figcaption", {}, h("b", {}, report.scoreHead(evaluator)), remark);
    if (trained.length === 0) return h("figure", {}, caption);
    return h("figure", {}, caption, drawing(trained, base, evaluator, unitName));
  }

  function drawing(points, base, evaluator, unitName) {
    const costs = points.map((point) => point.cost);
    const isLogarithmic = Math.max(...costs) > 5 * Math.min(...costs);
    const inner = isLogarithmic ? Math.log10 : (value) => value;
    const [left, right] = isLogarithmic ? charts.extent(costs.map(inner)) : [0, 1.12 * Math.max(...costs)];
    const figures = [...points, ...(base ? [base] : [])].map((point) => point.row.score);
    const height = Math.max(290, EDGE.top + EDGE.bottom + LABEL * (points.length + 1));
    const [bottom, top] = charts.extent(figures.flatMap((one) => [one.value, one.low, one.high]));
    const x = (value) => EDGE.left + ((inner(value) - left) / (right - left)) * (WIDTH - EDGE.left - EDGE.right);
    const y = (value) => height - EDGE.bottom - ((value - bottom) / (top - bottom)) * (height - EDGE.top - EDGE.bottom);
    const named = [...points, ...(base ? [base] : [])];
    const xTicks = isLogarithmic ? charts.logarithmicTicks(10 ** left, 10 ** right) : charts.ticks(left, right);
    return s(
      "svg",
      {
        viewBox: `0 0 ${WIDTH} ${height}`,
        role: "img",
        "aria-label": `Scores by ${evaluator.head} against ${unitName}; the tables have both`,
      },
      charts
        .ticks(bottom, top)
        .map((value) => [
          s("line", { class: "grid", x1: EDGE.left, x2: WIDTH - EDGE.right, y1: y(value), y2: y(value) }),
          s("text", { class: "tick", x: EDGE.left - 8, y: y(value) + 4, "text-anchor": "end" }, charts.label(value)),
        ]),
      xTicks.map((value) =>
        s(
          "text",
          { class: "tick", x: x(value), y: height - EDGE.bottom + 18, "text-anchor": "middle" },
          charts.label(value),
        ),
      ),
      s(
        "text",
        { class: "tick", x: (EDGE.left + WIDTH - EDGE.right) / 2, y: height - 6, "text-anchor": "middle" },
        `${unitName}${isLogarithmic ? ", logarithmic" : ""}`,
      ),
      base && baseLine(base, y),
      front(points, evaluator, x, y),
      labels(named, x, y, height - EDGE.bottom),
      points.map((point) => mark(point, x, y, unitName)),
    );
  }

  /** Draw the untouched model, which cost nothing, as a line with its interval. */
  function baseLine(base, y) {
    const { value, low, high } = base.row.score;
    const [x1, x2] = [EDGE.left, WIDTH - EDGE.right];
    return s(
      "g",
      { class: "base" },
      low !== null && s("rect", { x: x1, width: x2 - x1, y: y(high), height: Math.max(y(low) - y(high), 0) }),
      s("line", { x1, x2, y1: y(value), y2: y(value) }),
    );
  }

  /** Draw the steps of those that are better than all that cost as much or less. */
  function front(points, evaluator, x, y) {
    const sign = evaluator.higherIsBetter ? 1 : -1;
    const inOrder = points
      .filter((point) => !point.row.trainedOn)
      .sort(
        (one, other) => one.cost - other.cost || sign * (other.row.score.value - one.row.score.value),
      );
    const steps = [];
    for (const point of inOrder) {
      const best = steps.at(-1);
      if (!best || sign * (point.row.score.value - best.row.score.value) > 0) steps.push(point);
    }
    if (steps.length === 0) return null;
    const path = steps.map(
      (point, i) => `${i === 0 ? "M" : "H"}${x(point.cost)}${i === 0 ? "," : "V"}${y(point.row.score.value)}`,
    );
    return s("path", { class: "front", d: `${path.join("")}H${WIDTH - EDGE.right}` });
  }

  function mark(point, x, y, unitName) {
    const { value, low, high, text } = point.row.score;
    const place = x(point.cost);
    return s(
      "g",
      { class: point.row.trainedOn ? "undecided trained" : "significant" },
      s("title", {}, `${point.method}: ${text}, ${charts.label(point.cost)} ${unitName}`),
      low !== null && s("line", { class: "interval-line", x1: place, x2: place, y1: y(low), y2: y(high) }),
      s("circle", { cx: place, cy: y(value), r: 5 }),
    );
  }

  /** Write the names in a column right of the drawing, moved where they would lie on one another, each led to its mark. */
  function labels(points, x, y, bottom) {
    const end = WIDTH - EDGE.right;
    const heights = points.map((point) => y(point.row.score.value));
    const moved = charts.apart(heights, LABEL, EDGE.top, bottom);
    return points.map((point, i) => {
      const from = point.isBase ? end : x(point.cost);
      return s(
        "g",
        { class: point.isBase ? "base" : null },
        s("path", { class: "leader", d: `M${from},${heights[i]}L${end + 4},${heights[i]}L${end + 14},${moved[i]}` }),
        s("text", { x: end + 17, y: moved[i] + 4 }, short(point.method, 22), s("title", {}, point.method)),
      );
    });
  }

  return { view };
})();
