// The runs: what each is and cost, what it was made with, and its whole configuration.

const runs = (() => {
  /** Make the button that opens the settings of a method's runs. */
  function methodButton(section, method) {
    const open = () => state.openDialog({ run: section.methods.find((one) => one.method === method).runs[0] });
    return h(
      "button",
      {
        type: "button",
        class: "link",
        title: `${method}: settings and versions`,
        "data-key": `runs:${section.model}:${section.promptSet}:${method}`,
        click: open,
      },
      short(method),
    );
  }

  /** Open the settings of the run that a state names, or close those that are open; its repetitions can be chosen. */
  function open(now) {
    const dialog = document.getElementById("dialog");
    const run = report.run(now.run);
    if (!run) {
      if (dialog.className === "settings" && dialog.open) state.closeByAddress(dialog);
      return;
    }
    const body = h("div", {});
    report.load(run.file).then(
      (loaded) => body.replaceChildren(...details(loaded)),
      (error) => body.replaceChildren(h("p", { role: "alert" }, error.message)),
    );
    const title = h("h2", { id: "dialog-title", tabindex: "-1", autofocus: true, title: run.run }, short(run.run, 48));
    const names = report.runs
      .filter((other) => other.method === run.method && other.model === run.model)
      .map((other) => other.run);
    const picker =
      names.length > 1 &&
      choice(
        "run",
        "run",
        names.map((name) => [name, short(name, 48)]),
        run.run,
        (name) => state.change({ run: name }, { replace: true }),
      );
    const close = h("button", { type: "button", class: "close", click: () => dialog.close() }, "Close");
    dialog.replaceChildren(h("div", { class: "dialog-head" }, title, picker, close), body);
    dialog.className = "settings";
    if (!dialog.open) dialog.showModal();
  }

  function details({ facts, start, data, versions, config }) {
    const lists = [
      ["Run", facts],
      ["Start weights", start],
      ["Data", data],
      ["Versions", versions],
    ];
    return [
      h(
        "div",
        { class: "facts" },
        lists
          .filter(([, entries]) => entries.length > 0)
          .map(([title, entries]) =>
            h(
              "section",
              {},
              h("h3", {}, title),
              h(
                "dl",
                {},
                entries.flatMap(([name, text]) => [h("dt", {}, name), h("dd", {}, text)]),
              ),
            ),
          ),
      ),
      config && h("section", {}, h("h3", {}, "Configuration"), h("pre", { tabindex: "0" }, config)),
    ].filter(Boolean);
  }

  function view(main, now) {
    const sections = report.chosen(now);
    const measured = new Set(report.sections.flatMap((section) => Object.keys(section.runScores)));
    const others = report.runs.filter((run) => !measured.has(run.run) && (!now.model || run.model === now.model));
    const legend = `Press a run for its settings, versions and costs. Scores: the ${report.summary(sections, now).toLowerCase()} over the run's images. Command: the one that began the run; base and a start are begun by the run that needs them first.`;
    main.replaceChildren(
      h("p", {}, legend),
      ...sections.map((section) => {
        const inside = report.runs.filter((run) => run.run in section.runScores);
        return h(
          "section",
          {},
          sectionHeading(section, []),
          table(`Runs and their ${report.summary([section], now).toLowerCase()} scores`, inside, section, now),
        );
      }),
      ...(others.length > 0 ? [h("section", {}, table("Runs without scores", others, null, now))] : []),
    );
  }

  function table(caption, shown, section, now) {
    const evaluators = section ? report.evaluatorsOf(section, now) : [];
    const columns = [
      { key: "method", head: "method", ascendingFirst: true },
      ...(section ? [] : [{ key: "model", head: "model", ascendingFirst: true }]),
      { key: "seed", head: "training seed", ascendingFirst: true },
      { key: "started", head: "started, UTC" },
      ...evaluators.map(([, evaluator]) => ({ key: `score ${evaluator.key}`, head: report.scoreHead(evaluator) })),
      { key: "run", head: "run folder", class: "words", ascendingFirst: true },
      { key: "command", head: "command", class: "words", ascendingFirst: true },
    ];
    const rows = shown.map((run) => {
      const cells = {
        method: { value: run.method, content: runButton(run) },
        run: { value: run.run, content: h("span", { title: run.run }, breakable(short(run.run, 32), "-")), class: "words" },
        model: { value: run.model, content: run.model },
        seed: { value: run.seed, content: run.seed === null ? "" : String(run.seed) },
        started: { value: run.started, content: run.started ?? "not recorded", class: run.started ? null : "unknown" },
        command: commandCell(run),
      };
      for (const [number, evaluator] of evaluators) {
        const score = section.runScores[run.run][number];
        cells[`score ${evaluator.key}`] = { value: score, content: scoreText(score, evaluator) };
      }
      return { cells };
    });
    return sortableTable({ caption, columns, rows }, now);
  }

  function runButton(run) {
    const open = () => state.openDialog({ run: run.run });
    const attributes = { type: "button", class: "link", title: run.method, "data-key": `run:${run.run}`, click: open };
    return h("button", attributes, short(run.method));
  }

  function commandCell(run) {
    if (!run.command) return { value: null, content: "not recorded", class: "command unknown" };
    return { value: run.command, content: h("code", { title: run.command }, run.command), class: "command" };
  }

  return { view, open, methodButton };
})();
