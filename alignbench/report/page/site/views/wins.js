// Who wins: each method against base as a forest plot, and all against all as a heat map.

const wins = (() => {
  const ROW = 24; // height of a line of the forest plot
  const LEGEND =
    "Win rate over base in %, bars are 95 % intervals; filled: significant, pale: for these weights alone; grey: trained on the evaluator.";

  function view(main, now) {
    const sections = report.chosen(now);
    const parts = sections.map((section) => {
      const figures = report
        .evaluatorsOf(section, now)
        .map(([number, evaluator]) => pair(section, number, evaluator))
        .filter(Boolean);
      if (figures.length === 0) return null;
      return h("section", {}, sectionHeading(section), figures);
    });
    const shown = parts.filter(Boolean);
    const legend = h(
      "p",
      {},
      `Chart: ${LEGEND[0].toLowerCase()}${LEGEND.slice(1)} Table: win rate of the row's method over the column's in %; stars: significant, those over base as in the leaderboard.`,
    );
    const notes = noteList(sections, ["win", "seed", "trained_on", "subset", "looks", "data", "limits"]);
    const none = h("p", {}, "Nothing is compared here yet.");
    main.replaceChildren(...(shown.length > 0 ? [legend, ...shown, notes] : [none]));
  }

  function pair(section, number, evaluator) {
    const pairs = section.wins.filter((win) => win.evaluator === number);
    if (pairs.length === 0) return null;
    return h("div", { class: "pair" }, forestOf(section, number, evaluator), matrix(section, pairs, evaluator));
  }

  /** Draw the win rates over base by one evaluator; nothing where nobody is compared with base. */
  function forestOf(section, number, evaluator) {
    const rows = section.methods
      .map(({ method }) => section.rows.find((row) => row.method === method && row.evaluator === number))
      .filter((row) => row?.win.text);
    const isBase = (method) => section.methods.find((one) => one.method === method).isBase;
    return rows.every((row) => isBase(row.method)) ? null : forest(rows, evaluator);
  }

  /** Draw win rates over base with their intervals; filled where significant, grey where trained on the evaluator. */
  function forest(rows, evaluator) {
    const names = rows.map((row) => short(row.method));
    const [[left, width], right] = [charts.besideNames(names), 170];
    const height = rows.length * ROW + 26;
    const x = (percent) => left + (width * percent) / 100;
    const ticks = [0, 25, 50, 75, 100].map((percent) => [
      s("line", { class: percent === 50 ? "half" : "grid", x1: x(percent), x2: x(percent), y1: 2, y2: height - 20 }),
      s("text", { class: "tick", x: x(percent), y: height - 6, "text-anchor": "middle" }, String(percent)),
    ]);
    const lines = rows.map((row, i) => {
      const { value, low, high, text, stars } = row.win;
      const y = i * ROW + ROW / 2 + 2;
      const kind = `${stars.includes("*") ? "significant" : "undecided"}${stars.startsWith("(") ? " weights" : ""}${row.trainedOn ? " trained" : ""}`;
      return s(
        "g",
        { class: kind },
        s("text", { x: left - 10, y: y + 4, "text-anchor": "end" }, names[i]),
        low !== null && s("line", { class: "interval-line", x1: x(low), x2: x(high), y1: y, y2: y }),
        s("circle", { cx: x(value), cy: y, r: 4.5 }),
        s(
          "text",
          { class: "figure", x: left + width + 12, y: y + 4 },
          [text, stars, row.marks.join(",")].filter(Boolean).join(" "),
        ),
        s("title", {}, row.method),
      );
    });
    return h(
      "figure",
      {},
      h("figcaption", {}, h("b", {}, evaluator.head), "over base, %"),
      s(
        "svg",
        {
          viewBox: `0 0 ${left + width + right} ${height}`,
          role: "img",
          "aria-label": `Win rates over base by ${evaluator.head}; the leaderboard has them as a table`,
        },
        ticks,
        lines,
      ),
    );
  }

  /** Make the heat map: the winner's row, the loser's column. */
  function matrix(section, pairs, evaluator) {
    const methods = section.methods.map((one) => one.method).filter((method) => pairs.some((win) => win.a === method));
    const head = h(
      "tr",
      {},
      h("td", {}),
      methods.map((method) => h("th", { scope: "col", title: method }, breakable(short(method)))),
    );
    const body = methods.map((a) =>
      h(
        "tr",
        {},
        h("th", { scope: "row", title: a }, short(a)),
        methods.map((b) =>
          matrixCell(
            pairs.find((win) => win.a === a && win.b === b),
            a === b,
          ),
        ),
      ),
    );
    const caption = h("caption", {}, h("b", {}, evaluator.head), "row over column, %");
    return h(
      "div",
      { class: "wide" },
      h("table", { class: "matrix" }, caption, h("thead", {}, head), h("tbody", {}, body)),
    );
  }

  function matrixCell(win, isSelf) {
    if (!win) return h("td", { class: "self" }, isSelf ? "·" : "");
    const title = `${win.a} over ${win.b}: ${win.text} ${win.stars}, ${win.n} comparisons`;
    const stars = win.stars.includes("*") ? win.stars : "";
    return tint(h("td", { title, class: stars.startsWith("*") ? "significant" : null }, figure(win.text, stars)), win);
  }

  return { view, forestOf, LEGEND };
})();
