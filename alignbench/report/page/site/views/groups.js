// The breakdown by style or category: groups by methods, one table an evaluator.

const groups = (() => {
  async function view(main, now) {
    const measure = now.measure === "win" ? "win" : "score";
    const sections = report.chosen(now).filter((section) => section.groups);
    const asked = location.hash;
    const loaded = await Promise.all(sections.map((section) => report.load(section.groups)));
    if (location.hash !== asked) return;
    const parts = sections.map((section, i) =>
      h(
        "section",
        {},
        sectionHeading(section),
        report
          .evaluatorsOf(section, now)
          .map(([number, evaluator]) => table(section, loaded[i], number, evaluator, measure, now)),
      ),
    );
    const none = h("p", {}, "These prompts have no styles or categories.");
    const measures = [
      ["win", "Win rate over base"],
      ["score", `${report.summary(sections, now)} score`],
    ];
    const chooser = segments("Measure", "measure", measures, measure, (value) => state.change({ measure: value }));
    main.replaceChildren(
      ...(parts.length > 0
        ? [chooser, ...parts, noteList(sections, [measure, "seed", "trained_on", "subset", "looks", "data"])]
        : [none]),
    );
  }

  function table(section, parts, number, evaluator, measure, now) {
    const methods = section.methods.filter((one) => measure !== "win" || !one.isBase).map((one) => one.method);
    const all = { group: "all", rows: section.rows };
    const rows = [all, ...parts].map(({ group, rows: inside }) => {
      const counts = []; // of scores; a method with several seeds has more
      const cells = { group: { value: group, content: h("bdi", {}, group) } };
      for (const method of methods) {
        const row = inside.find((one) => one.method === method && one.evaluator === number);
        if (!row?.[measure].text) continue;
        const { value, text, stars } = row[measure];
        cells[`method ${method}`] = {
          value,
          content: figure(text, stars, row.marks),
          heat: measure === "win" ? row.win : null,
        };
        counts.push(row.n);
      }
      const [fewest, most] = [Math.min(...counts), Math.max(...counts)];
      const range = [...new Set([fewest, most])].map((count) => count.toLocaleString("en")).join(" to ");
      if (counts.length > 0) cells.n = { value: most, content: range };
      return { cells };
    });
    const columns = [
      { key: "group", head: "group", ascendingFirst: true },
      ...methods.map((method) => ({ key: `method ${method}`, head: short(method), title: method })),
      { key: "n", head: "scores a method" },
    ];
    return sortableTable(
      { caption: `${evaluator.head}, ${measure === "win" ? "win rate over base, %" : `${evaluator.summary} score`}`, columns, rows },
      now,
    );
  }

  return { view };
})();
