// The leaderboard of each section: methods by evaluators, or all figures of one evaluator.

const leaderboard = (() => {
  const EXPLAINED = { win: "win rate over base, %", strength: "strength, rank in parentheses" };

  /** Return the measures to choose from: the mean is one of its own where an evaluator is shown by its median. */
  function measuresOf(sections, now) {
    const shown = report.summary(sections, now);
    return [
      ["score", `${shown} score`],
      ...(shown === "Mean" ? [] : [["mean", "Mean score"]]),
      ["win", "Win rate over base"],
      ["strength", "Strength"],
    ];
  }

  function view(main, now) {
    const sections = report.chosen(now);
    const measures = measuresOf(sections, now);
    const measure = measures.some(([key]) => key === now.measure) ? now.measure : "score";
    const parts = sections.map((section) => {
      const columns = now.evaluator ? figuresOf(section, now) : evaluatorsOf(section, measure);
      if (columns.length === 0) return null;
      const caption = now.evaluator
        ? `All figures by ${columns[0].evaluator.head}`
        : measures.find(([key]) => key === measure)[1];
      return h(
        "section",
        {},
        sectionHeading(section),
        flagList(section),
        sortableTable({ caption, ...grid(section, columns) }, now),
        section.startTable && plainTable(section.startTable),
        publishedTable(section),
      );
    });
    const chooser =
      !now.evaluator &&
      segments("Measure", "measure", measures, measure, (value) =>
        state.change({ measure: value, sort: "", direction: "" }),
      );
    const legend = h(
      "p",
      {},
      "Brackets: 95 % intervals. Bold: the best among the models that did not train on the evaluator, even if others are within its interval. Press a method for its settings.",
    );
    const shownMeasures = now.evaluator ? measures.map(([key]) => key) : [measure];
    const kinds = ["seed", "trained_on", "subset", "looks", "data", "rank", "published", "cards", "limits"];
    if (shownMeasures.includes("win") || sections.some((section) => section.startTable)) kinds.unshift("win");
    if (shownMeasures.includes("strength")) kinds.unshift("strength");
    main.replaceChildren(...[chooser, legend, ...parts, noteList(sections, kinds)].filter(Boolean));
  }

  /** Name an evaluator above a measure, and how often it agrees with people where that is known. */
  function headOf(evaluator, measure) {
    const head = measure === "score" ? report.scoreHead(evaluator) : evaluator.head;
    return evaluator.agreement ? `${head} · agrees with people: ${evaluator.agreement}` : head;
  }

  /** Columns of one measure: an evaluator each. */
  function evaluatorsOf(section, measure) {
    return [...section.evaluators.entries()].map(([number, evaluator]) => ({
      key: evaluator.key,
      head: headOf(evaluator, measure),
      number,
      evaluator,
      measure,
      ascendingFirst: !evaluator.higherIsBetter && (measure === "score" || measure === "mean"),
    }));
  }

  /** Columns of one evaluator: a measure each. */
  function figuresOf(section, now) {
    return report.evaluatorsOf(section, now).flatMap(([number, evaluator]) =>
      measuresOf([section], now).map(([measure, name]) => ({
        key: measure,
        head: EXPLAINED[measure] ?? name.toLowerCase(),
        number,
        evaluator,
        measure,
        ascendingFirst: !evaluator.higherIsBetter && (measure === "score" || measure === "mean"),
      })),
    );
  }

  function grid(section, columns) {
    const best = new Map(columns.map((column) => [column.key, bestOf(section, column)]));
    const rows = section.methods.map((method) => {
      const cells = { method: { value: method.method, content: runs.methodButton(section, method.method) } };
      for (const column of columns) {
        const row = rowOf(section, method.method, column.number);
        if (row?.[column.measure]?.text) cells[column.key] = cellOf(row, column, best.get(column.key));
      }
      if (method.meanRank) cells.meanRank = { value: method.meanRank.value, content: method.meanRank.text };
      return { cells, below: publishedRows(section, method.method, columns) };
    });
    const heads = [
      { key: "method", head: "method", ascendingFirst: true },
      ...columns,
      { key: "meanRank", head: "mean rank", ascendingFirst: true },
    ];
    return { columns: heads, rows };
  }

  const rowOf = (section, method, number) =>
    section.rows.find((row) => row.method === method && row.evaluator === number);

  function cellOf(row, column, best) {
    const { value, text, stars } = row[column.measure];
    const isBest = value === best && !row.trainedOn && !row.isData;
    const cell = { value, content: figure(text, stars, row.marks), class: isBest ? "best" : null };
    return column.measure === "win" ? { ...cell, heat: row.win } : cell;
  }

  /** Return the best figure of a column among the methods that did not train on its evaluator. */
  function bestOf(section, column) {
    const values = section.rows
      .filter((row) => row.evaluator === column.number && !row.trainedOn && !row.isData && Number.isFinite(row[column.measure]?.value))
      .map((row) => row[column.measure].value);
    return (column.ascendingFirst ? Math.min : Math.max)(...values);
  }

  /** Rows of papers, each below our own of the same method. */
  function publishedRows(section, method, columns) {
    const own = section.published.filter((one) => one.method === method);
    return [...new Set(own.map((one) => one.paper))].flatMap((paper) => {
      const shown = columns.map((column) =>
        own.find((one) => one.paper === paper && one.evaluator === column.number && one.measure === column.measure),
      );
      if (!shown.some(Boolean)) return [];
      const name = h("th", { scope: "row" }, `${method}, as printed by ${paper}`);
      const cells = shown.map((one) => h("td", { title: one?.source }, one?.text ?? ""));
      return [h("tr", { class: "published" }, name, cells, h("td"))];
    });
  }

  function publishedTable(section) {
    if (!section.publishedTable) return null;
    return h(
      "details",
      { open: true },
      h("summary", {}, "Published values beside ours"),
      h(
        "p",
        {},
        "Figures of papers, as printed there. They compare with ours only where the verdict names no obstacle: other prompts, noise, guidance or scales give other figures.",
      ),
      plainTable(section.publishedTable),
    );
  }

  return { view };
})();
