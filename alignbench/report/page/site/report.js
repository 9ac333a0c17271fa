// What the report holds: the figures that came with the page, and the files that are loaded when they are asked for.

const report = (() => {
  const content = JSON.parse(document.getElementById("content").textContent);
  const loading = new Map();

  /** Load a data file beside the page once; return a promise of its value. */
  function load(file) {
    if (!loading.has(file)) {
      loading.set(
        file,
        new Promise((resolve, reject) => {
          const script = h("script", { src: file });
          script.receive = resolve; // the file calls it with its value
          script.addEventListener("error", () => {
            loading.delete(file);
            reject(new Error("The report was made anew, or moved without its folder “report”: reload the page."));
          });
          document.head.append(script);
        }),
      );
    }
    return loading.get(file);
  }

  const distinct = (values) => [...new Set(values)];

  return {
    ...content,
    load,
    models: distinct(content.sections.map((section) => section.model)),
    promptSets: distinct(content.sections.map((section) => section.promptSet)),
    evaluators: distinct(content.sections.flatMap((section) => section.evaluators.map((one) => one.key))),
    /** Return the sections that a state asks for. */
    chosen: (state) =>
      content.sections.filter(
        (section) =>
          (!state.model || section.model === state.model) && (!state.prompts || section.promptSet === state.prompts),
      ),
    /** Return [number, evaluator] of those of a section that a state asks for. */
    evaluatorsOf: (section, state) =>
      [...section.evaluators.entries()].filter(([, one]) => !state.evaluator || one.key === state.evaluator),
    /** Say which figure sections show of their images' scores: `Median`, `Mean`, or `Median or mean`. */
    summary(sections, state) {
      const shown = sections.flatMap((section) => this.evaluatorsOf(section, state).map(([, one]) => one.summary));
      const text = ["median", "mean"].filter((kind) => shown.includes(kind)).join(" or ") || "median";
      return text[0].toUpperCase() + text.slice(1);
    },
    /** Name an evaluator above its scores, and say so if these are means. */
    scoreHead: (evaluator) => (evaluator.summary === "mean" ? `${evaluator.head}, mean` : evaluator.head),
    /** Name an evaluator, with its version where there are several. */
    evaluatorName: (key) => {
      const all = content.sections.flatMap((section) => section.evaluators.map((one) => one.key));
      const name = key.slice(0, key.lastIndexOf("@"));
      return new Set(all.filter((other) => other.slice(0, other.lastIndexOf("@")) === name)).size > 1 ? key : name;
    },
    /** Name a prompt set: a list of prompts by its file. */
    promptName: (promptSet) => content.sections.find((section) => section.promptSet === promptSet).promptName,
    run: (name) => content.runs.find((run) => run.run === name),
  };
})();
