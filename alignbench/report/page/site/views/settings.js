// Several settings of one method: the best within an equal budget, and what each value of a setting brought.

const settings = (() => {
  const SIZE = { width: 320, height: 190, left: 40, right: 12, top: 10, bottom: 40 };
  const LOGARITHMIC = 5; // ratio of the largest value to the smallest from which an axis is logarithmic

  function view(main, now) {
    const sections = report.chosen(now).filter((section) => section.settings);
    const units = sections[0]?.settings.budgets.map(({ unit, name }) => [unit, name]) ?? [];
    const chosen = units.some(([unit]) => unit === now.unit) ? now.unit : units[0]?.[0];
    const chooser = segments("Budget in", "unit", units, chosen, (value) => state.change({ unit: value }));
    const legend = h(
      "p",
      {},
      "A budget is the largest that every method has a run of. Of its settings within the budget, each method shows the best.",
    );
    const parts = sections.map((section) => {
      const shown = new Set(report.evaluatorsOf(section, now).map(([number]) => number));
      const { grids } = section.settings.budgets.find(({ unit }) => unit === chosen);
      const panels = section.settings.panels.filter((panel) => shown.has(panel.evaluator));
      return h(
        "section",
        {},
        sectionHeading(section),
        grids.filter((grid) => shown.has(grid.evaluator)).map(plainTable),
        h("ul", { class: "notes" }, h("li", {}, section.settings.note)),
        panels.length > 0 && h("h3", {}, "Win rate over base by the value of a setting, %"),
        h(
          "div",
          { class: "charts small" },
          panels.map((panel) => drawing(panel, section.evaluators[panel.evaluator])),
        ),
      );
    });
    const nothing = sections.length === 0 && h("p", {}, "Each method of this choice has one setting.");
    main.replaceChildren(...[units.length > 0 && chooser, legend, ...parts, nothing].filter(Boolean));
    main.append(noteList(sections, ["win", "seed", "trained_on", "subset", "looks"]));
  }

  function drawing(panel, evaluator) {
    const places = panel.ticks.map(([place]) => place);
    const [low, high] = [Math.min(...places), Math.max(...places)];
    const isLogarithmic = panel.isNumber && low > 0 && high > LOGARITHMIC * low;
    const inner = isLogarithmic ? Math.log10 : (value) => value;
    const [left, right] = charts.extent(places.map(inner));
    const [first, last] = [SIZE.left, SIZE.width - SIZE.right];
    const bottom = SIZE.height - SIZE.bottom;
    const x = (place) => first + ((inner(place) - left) / (right - left)) * (last - first);
    const y = (value) => bottom - (value / 100) * (bottom - SIZE.top);
    const svg = s(
      "svg",
      {
        viewBox: `0 0 ${SIZE.width} ${SIZE.height}`,
        role: "img",
        "aria-label": `Win rate over base of ${panel.recipeOf} by ${evaluator.head}, by ${panel.setting}`,
      },
      [0, 25, 50, 75, 100].map((value) => [
        s("line", { class: value === 50 ? "half" : "grid", x1: first, x2: last, y1: y(value), y2: y(value) }),
        s("text", { class: "tick", x: first - 6, y: y(value) + 4, "text-anchor": "end" }, charts.label(value)),
      ]),
      panel.ticks.map(([place, text]) =>
        s("text", { class: "tick", x: x(place), y: bottom + 16, "text-anchor": "middle" }, short(text, 10)),
      ),
      s("text", { class: "tick", x: (first + last) / 2, y: SIZE.height - 6, "text-anchor": "middle" }, panel.setting),
      panel.lines.map((line, i) => drawLine(line, i, x, y)),
    );
    const key = panel.lines.filter((line) => line.others);
    return h(
      "figure",
      {},
      h("figcaption", {}, h("b", {}, `${panel.recipeOf}: ${panel.setting}`), ` by ${evaluator.head}`),
      svg,
      key.length > 0 &&
        h(
          "p",
          { class: "key" },
          panel.lines.map((line, i) => [h("span", { class: `line-${i % 4}` }, "━"), ` ${line.others}  `]),
        ),
    );
  }

  function drawLine(line, number, x, y) {
    const known = line.points.filter((point) => Number.isFinite(point.value));
    const kind = `line-${number % 4}`;
    const path = known.map((point, i) => `${i === 0 ? "M" : "L"}${x(point.x).toFixed(1)},${y(point.value).toFixed(1)}`);
    return [
      s("path", { class: `curve ${kind}`, d: path.join("") }),
      known.map((point) =>
        s(
          "g",
          { class: point.trainedOn ? "undecided trained" : "significant" },
          s("title", {}, `${point.method}: ${point.value.toFixed(1)} % [${point.low.toFixed(1)}, ${point.high.toFixed(1)}]`),
          s("line", { class: "interval-line", x1: x(point.x), x2: x(point.x), y1: y(point.low), y2: y(point.high) }),
          s("circle", { cx: x(point.x), cy: y(point.value), r: 4 }),
        ),
      ),
    ];
  }

  return { view };
})();
