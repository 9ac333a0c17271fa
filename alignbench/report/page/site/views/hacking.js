// Reward hacking: what the methods trained on against what they did not, and what happened to their images meanwhile.

const hacking = (() => {
  const ROW = 24; // height of a line of a plot of differences

  async function view(main, now) {
    const sections = report.chosen(now);
    const shown = report.runs.filter((run) => run.looks && (!now.model || run.model === now.model));
    const asked = location.hash;
    const loaded = await Promise.all(shown.map((run) => report.load(run.file)));
    if (location.hash !== asked) return;
    const legend = h(
      "p",
      {},
      "Flagged: a method that is significantly better than base by an evaluator that it trained on (reward hacking), or worse (collapse), while it is significantly worse by one that it did not train on (held out). Flags and verdicts rest on the same tests: the win rate, or the mean score where that alone shows a difference. The lowest held-out win rate says how bad it is: 50 % is no loss. Charts: differences to base with 95 % intervals; filled: significant after Holm. No measure of images is good or bad in itself: look at the images.",
    );
    main.replaceChildren(
      legend,
      ...sections.map((section) =>
        h(
          "section",
          {},
          sectionHeading(section, []),
          flagList(section, false),
          section.allClear && h("p", { class: "calm" }, section.allClear),
          sideEffects(section),
          changedImages(section),
          diagnostics(section),
          section.weights.rows.length > 0 && plainTable(section.weights),
          section.guidance.map(plainTable),
        ),
      ),
      ...shown.flatMap((run, i) => overTraining(run, loaded[i])),
    );
  }

  /** List the verdicts on the methods that lose by an evaluator that they did not train on. */
  function sideEffects(section) {
    const losing = section.verdicts.filter(({ kind }) => kind === "mixed" || kind === "worse");
    if (losing.length === 0) return null;
    return [
      h("h3", {}, "Side effects: significant losses over base by evaluators that the method did not train on"),
      h(
        "ul",
        { class: "verdicts" },
        losing.map(({ who, kind, text }) => h("li", { class: kind }, h("p", {}, h("b", {}, who), ": ", text))),
      ),
    ];
  }

  /** List the methods whose images changed while what they trained on rose. */
  function changedImages({ changed }) {
    if (changed.length === 0) return null;
    return [
      h("h3", {}, "Images that changed while the reward rose"),
      h("ul", { class: "verdicts" }, changed.map((text) => h("li", { class: "mixed" }, h("p", {}, text)))),
    ];
  }

  /** Draw all measures of images, those of a kind below one heading. */
  function diagnostics({ diagnostics: plots }) {
    const headings = [...new Set(plots.map((plot) => plot.heading))];
    return headings.map((heading) => [
      h("h3", {}, heading),
      h("div", { class: "charts" }, plots.filter((plot) => plot.heading === heading).map(differences)),
    ]);
  }

  /** Draw how much a statistic of each method differs from base. */
  function differences({ title, base, rows }) {
    const names = rows.map((row) => short(row.method));
    const [[left, width], right] = [charts.besideNames(names), 190];
    const height = rows.length * ROW + 26;
    const [low, high] = charts.extent([0, ...rows.flatMap((row) => [row.value, row.low, row.high])]);
    const x = (value) => left + (width * (value - low)) / (high - low);
    const ticks = charts
      .ticks(low, high, 4)
      .map((value) => [
        s("line", { class: "grid", x1: x(value), x2: x(value), y1: 2, y2: height - 20 }),
        s("text", { class: "tick", x: x(value), y: height - 6, "text-anchor": "middle" }, charts.label(value)),
      ]);
    const lines = rows.map((row, i) => {
      const y = i * ROW + ROW / 2 + 2;
      return s(
        "g",
        { class: row.stars.startsWith("*") ? "significant" : "undecided" },
        s("text", { x: left - 10, y: y + 4, "text-anchor": "end" }, names[i]),
        row.low !== null && s("line", { class: "interval-line", x1: x(row.low), x2: x(row.high), y1: y, y2: y }),
        s("circle", { cx: x(row.value), cy: y, r: 4.5 }),
        s("text", { class: "figure", x: left + width + 12, y: y + 4 }, [row.text, row.stars].join(" ")),
        s("title", {}, row.method),
      );
    });
    return h(
      "figure",
      {},
      h("figcaption", {}, h("b", {}, title), `base ${base}`),
      s(
        "svg",
        {
          viewBox: `0 0 ${left + width + right} ${height}`,
          role: "img",
          "aria-label": `${title}: differences to base; diagnostics.csv has them as a table`,
        },
        ticks,
        s("line", { class: "half", x1: x(0), x2: x(0), y1: 2, y2: height - 20 }),
        lines,
      ),
    );
  }

  /** Draw the trained reward against held-out evaluators, and the image statistics, of one run over its training. */
  function overTraining(run, { validation, looks, kept }) {
    if (validation.length === 0) return [];
    const ordered = [...validation].sort((one, other) => one.isTrained - other.isTrained); // the trained on top
    const lines = ordered.map((one) => ({
      points: one.points.map(([step, value]) => [step, value]),
      kind: one.isTrained ? "trained-on" : "held-out",
      label: one.evaluator,
    }));
    const judged = curves.panel({
      name: "% won over the start",
      lines,
      range: [0, 100],
      middle: 50,
      kept,
      isLarge: true,
    });
    const statistics = looks.map(({ title, points }) =>
      curves.panel({ name: title, lines: [{ points, kind: "held-out" }], kept }),
    );
    const about = "over training; orange: trained on, blue: held out, dashed: the step that was kept";
    return [
      h(
        "section",
        { class: "over-training" },
        h("h2", {}, run.method, h("span", { title: run.run }, short(run.run, 40)), h("small", {}, about)),
        h("div", { class: "charts" }, judged),
        h("div", { class: "charts small" }, statistics),
      ),
    ];
  }

  return { view };
})();
