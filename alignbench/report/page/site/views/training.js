// How training went: the logged figures of one method, a line for each training seed.

const training = (() => {
  async function view(main, now) {
    const trained = report.runs.filter((run) => run.curves && (!now.model || run.model === now.model));
    const recipes = [...new Set(trained.map((run) => `${run.method} on ${run.model}`))];
    if (recipes.length === 0) {
      main.replaceChildren(h("p", {}, "Nothing was trained here."));
      return;
    }
    const chosen = recipes.includes(now.method) ? now.method : recipes[0];
    const shown = trained
      .filter((run) => `${run.method} on ${run.model}` === chosen)
      .sort((one, other) => one.seed - other.seed);
    const asked = location.hash;
    const loaded = await Promise.all(shown.map((run) => report.load(run.file)));
    if (location.hash !== asked) return;
    const names = [...new Set(loaded.flatMap(({ curves }) => curves.map((curve) => curve.name)))];
    const chooser = segments(
      "Method",
      "method",
      recipes.map((one) => [one, short(one, 40)]),
      chosen,
      (value) => state.change({ method: value }),
    );
    const key = h(
      "p",
      { class: "key" },
      shown.map((run, i) => [
        h("span", { class: `line-${i % 4}` }, "━"),
        h("span", { title: run.run }, ` ${short(run.method)}, training seed ${run.seed}  `),
      ]),
    );
    const panels = names.map((name) =>
      curves.panel({
        name,
        lines: loaded.map((run, i) => ({
          points: run.curves.find((curve) => curve.name === name)?.points ?? [],
          kind: `line-${i % 4}`,
        })),
      }),
    );
    main.replaceChildren(
      chooser,
      h(
        "section",
        {},
        h("h2", {}, "Training curves", h("small", {}, "over the optimizer step")),
        key,
        h("div", { class: "charts small" }, panels),
      ),
      ...validationCurves(loaded),
    );
  }

  /** Draw what the looks at the runs said: a panel an evaluator, a line a training seed. */
  function validationCurves(loaded) {
    const evaluators = [...new Set(loaded.flatMap((run) => run.validation.map((one) => one.evaluator)))];
    if (evaluators.length === 0) return [];
    const panels = evaluators.map((evaluator) =>
      curves.panel({
        name: evaluator,
        range: [0, 100],
        middle: 50,
        kept: loaded.length === 1 ? loaded[0].kept : null,
        lines: loaded.map((run, i) => ({
          points: run.validation.find((one) => one.evaluator === evaluator)?.points ?? [],
          kind: `line-${i % 4}`,
        })),
      }),
    );
    const about =
      "% won over the start on prompts held out for this, with 95 % intervals; dashed: the step that was kept";
    return [
      h(
        "section",
        {},
        h("h2", {}, "Validation curves", h("small", {}, about)),
        h("div", { class: "charts small" }, panels),
      ),
    ];
  }

  return { view };
})();
