// The start page: what each method did in words and at what cost, what was flagged, who wins, and six telling images.

const overview = (() => {
  function view(main, now) {
    const sections = report.chosen(now);
    const parts = sections.map((section) =>
      h(
        "section",
        { class: "overview" },
        sectionHeading(section),
        section.summary && h("p", { class: "summary" }, section.summary),
        flagList(section),
        verdicts(section),
        winCharts(section),
        gallery(section, now),
      ),
    );
    const leftOut = report.leftOut.map((text) => h("p", { class: "warning" }, text));
    const reproduced = report.reproductions && reproductions(report.reproductions);
    main.replaceChildren(...leftOut, ...parts, ...(reproduced ? [reproduced] : []), noteList(sections, ["win", "seed", "trained_on", "subset", "looks", "data", "limits"]));
  }

  /** Show the verdicts on rows of published tables. */
  function reproductions({ table, note }) {
    return h("section", { class: "reproductions" }, plainTable(table), h("p", { class: "about" }, note));
  }

  /** List what is said of each method, and what its training cost. */
  function verdicts(section) {
    if (section.verdicts.length === 0)
      return h("p", { class: "calm" }, "There is no method beside base yet, so nothing is compared.");
    const items = section.verdicts.map(({ method, who, kind, text, cost }) =>
      h(
        "li",
        { class: kind },
        h("p", {}, runs.methodButton(section, method), who.slice(method.length), ": ", text),
        cost && h("small", {}, cost),
      ),
    );
    return [
      h("h3", {}, "Each method over base, and what it cost"),
      h("p", { class: "about" }, report.legend),
      h("ul", { class: "verdicts" }, items),
    ];
  }

  function winCharts(section) {
    const charts = section.evaluators.map((one, number) => one.isQuality && wins.forestOf(section, number, one));
    if (!charts.some(Boolean)) return null;
    return [
      h("h3", {}, "Win rates over base"),
      h("p", { class: "about" }, wins.LEGEND),
      h("div", { class: "charts" }, charts),
    ];
  }

  /** Show the images of one method that gain and lose most, base's image beside each. */
  function gallery(section, now) {
    const { by, methods: shown } = section.gallery;
    if (shown.length === 0) return null;
    const methods = shown.map((one) => one.method);
    const isReal = ({ method }) => section.methods.find((one) => one.method === method).isData;
    const chosen = shown.find((one) => one.method === now.method) ?? shown.find((one) => !isReal(one)) ?? shown[0];
    const choices = methods.map((method) => [method, short(method)]);
    const choose = (method) => state.change({ method }, { replace: true });
    const losses = chosen.images.filter((image) => image.gain < 0);
    const gains = chosen.images.filter((image) => image.gain >= 0);
    const about =
      `Left base, right ${chosen.method}: its score minus base's, in standard deviations (SD) of the scores of both` +
      ` (averaged over ${by}: no compared method trained on these). Chosen for the size of the change, so not typical.`;
    return [
      h("h3", {}, "Largest gains and losses"),
      methods.length > 1 &&
        segments("Method of the images", `gallery:${section.images.prompts}`, choices, chosen.method, choose),
      h("p", { class: "about" }, about),
      [gains, losses].map((images) =>
        h(
          "div",
          { class: "gallery" },
          images.map((image) => pair(section, chosen, image)),
        ),
      ),
    ];
  }

  /** Make the two images of a prompt, which lead to all images of it. */
  function pair(section, chosen, image) {
    const seed = report.run(chosen.run).seed;
    const address = state.address({
      view: "images",
      model: section.model,
      prompts: section.promptSet,
      seed: seed === null ? "" : String(seed),
      open: image.key,
    });
    const names = ["base", chosen.method];
    for (const src of image.sprites) new Image().src = src; // or paper would show none of those out of sight
    const sign = image.gain < 0 ? "−" : "+";
    return h(
      "figure",
      {},
      h(
        "a",
        { href: address, title: `${image.key}: all images of this prompt` },
        image.sprites.map((sprite, i) => thumbnail(sprite, image.place, `${names[i]}, ${image.key}`)),
      ),
      h(
        "figcaption",
        {},
        h(
          "b",
          { class: `gain ${image.gain < 0 ? "worse" : "better"}` },
          `${sign}${Math.abs(image.gain).toFixed(2)} SD`,
        ),
        h("span", { dir: "auto" }, image.text),
      ),
    );
  }

  return { view };
})();
