// One prompt at full size: its whole text, every method's image from the same noise, and all scores.

const prompt = (() => {
  /**
   * Show an image of every method in the dialog.
   *
   * @param {object} browser what the image browser shows: `section`, `columns` and `prompts`
   * @param {object} image the image to show: `id`, `text`, `groups`, `number` and its `place` in all lists
   * @param {{before: ?object, after: ?object}} neighbours the images before and after it in the list
   */
  function show(browser, image, neighbours) {
    const dialog = document.getElementById("dialog");
    const step = (label, target) =>
      h(
        "button",
        {
          type: "button",
          "data-key": label,
          disabled: !target,
          click: () => target && state.change({ open: target.key }, { replace: true }),
        },
        label,
      );
    dialog.replaceChildren(
      h(
        "div",
        { class: "dialog-head" },
        h("h2", { id: "dialog-title", tabindex: "-1", autofocus: true }, image.key),
        image.groups.map((group) => h("bdi", { class: "chip" }, group)),
        step("← previous", neighbours.before),
        step("next →", neighbours.after),
        h("button", { type: "button", class: "close", click: () => dialog.close() }, "Close"),
      ),
      h("p", { class: "prompt-text", dir: "auto" }, image.text),
      h(
        "div",
        { class: "pictures" },
        browser.columns.map((column) => picture(column, image)),
      ),
      scores(browser, image),
      evidence.section(browser, image) ?? "",
    );
    dialog.className = "one-prompt";
    if (!dialog.open) dialog.showModal();
    dialog.scrollTop = 0;
  }

  function picture(column, image) {
    const file = column.set.files[image.place];
    const address = file && `${column.set.folder}${file}`;
    const shown = file
      ? h(
          "a",
          { href: address, target: "_blank", rel: "noreferrer" },
          h("img", { src: address, alt: `${column.name}, ${image.key}` }),
        )
      : h("p", { class: "absent" }, "no image here");
    return h("figure", {}, h("figcaption", { title: column.name }, short(column.name)), shown);
  }

  function scores({ section, columns }, image) {
    const base = columns.find((column) => column.isBase);
    const head = h(
      "tr",
      {},
      h("th", { scope: "col" }, "score"),
      columns.map((column) => h("th", { scope: "col", title: column.name }, short(column.name))),
    );
    const body = section.evaluators.map((evaluator, number) => {
      const values = columns.map((column) => column.set.scores[number]?.[image.place] ?? null);
      const known = values.filter((value) => value !== null);
      const best = (evaluator.higherIsBetter ? Math.max : Math.min)(...known);
      const own = base?.set.scores[number]?.[image.place] ?? null;
      const cells = values.map((value, i) => {
        const difference = value !== null && own !== null && columns[i] !== base && gain(value - own, evaluator);
        return h(
          "td",
          { class: value !== null && value === best ? "best" : null },
          h("span", { class: "value" }, scoreText(value, evaluator)),
          difference,
        );
      });
      return h("tr", {}, h("th", { scope: "row" }, evaluator.head), cells);
    });
    const caption = "Scores of these images, in the scale of the tables; below, the difference to base";
    return h(
      "div",
      { class: "wide" },
      h("table", {}, h("caption", {}, caption), h("thead", {}, head), h("tbody", {}, body)),
    );
  }

  return { show };
})();
