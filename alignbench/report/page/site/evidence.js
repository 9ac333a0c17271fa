// What the scores of one image were made of: all that evaluators kept, for each method.

const evidence = (() => {
  /**
   * Return a place for the evidence of an image, which is filled once it is loaded; null where no method has any.
   *
   * @param {object} browser what the image browser shows: `section` and `columns`
   * @param {object} image as in `prompt.show`
   */
  function section({ section: { evaluators }, columns }, image) {
    const part = Math.floor(image.place / (report.sprite.columns * report.sprite.rows));
    const known = columns.filter((column) => column.evidence[part]);
    if (known.length === 0) return null;
    const place = h("div", {});
    Promise.all(known.map((column) => report.load(column.evidence[part]))).then(
      (loaded) => place.replaceChildren(...blocks(evaluators, known, loaded, image.place)),
      (error) => place.replaceChildren(h("p", { role: "alert" }, error.message)),
    );
    return place;
  }

  /** Return a block for each evaluator with evidence; the first one is open. */
  function blocks(evaluators, columns, loaded, place) {
    return evaluators
      .map((evaluator, number) => ({
        evaluator,
        number,
        told: columns
          .map((column, i) => ({ column, frames: loaded[i][number]?.[place] }))
          .filter(({ frames }) => frames),
      }))
      .filter(({ told }) => told.length > 0)
      .map(({ evaluator, number, told }, i) =>
        h(
          "details",
          { class: "evidence", open: i === 0 },
          h("summary", {}, `Why: ${evaluator.head}`),
          h(
            "div",
            { class: "methods" },
            told.map(({ column, frames }) => method(column, frames, evaluator, number, place)),
          ),
        ),
      );
  }

  function method(column, frames, evaluator, number, place) {
    const score = scoreText(column.set.scores[number]?.[place] ?? null, evaluator);
    return h(
      "section",
      {},
      h("h3", { title: column.name }, short(column.name), h("span", { class: "value" }, ` ${score}`)),
      frames.map((frame, i) => [frames.length > 1 && h("h4", {}, `frame ${i + 1}`), entries(frame)]),
    );
  }

  /** Show the entries of an object: what is a list of objects as a table, all else by its name. */
  function entries(object) {
    const all = Object.entries(object);
    const tables = all.filter(([, value]) => isTable(value));
    const others = all.filter(([, value]) => !isTable(value));
    return [
      others.length > 0 &&
        h(
          "dl",
          {},
          others.map(([name, value]) => [h("dt", {}, words(name)), h("dd", {}, shown(value))]),
        ),
      tables.map(([name, rows]) => table(words(name), rows)),
    ];
  }

  const words = (name) => name.replaceAll("_", " ");

  const isObject = (value) => value !== null && typeof value === "object" && !Array.isArray(value);

  const isTable = (value) => Array.isArray(value) && value.length > 0 && value.every(isObject);

  function table(caption, rows) {
    const names = [...new Set(rows.flatMap(Object.keys))];
    const isOfWords = (name) => rows.some((row) => typeof row[name] === "string" || typeof row[name] === "boolean");
    const side = Object.fromEntries(names.map((name) => [name, isOfWords(name) ? "words" : ""]));
    const head = names.map((name) => h("th", { scope: "col", class: side[name] }, words(name)));
    const cell = (row, name) => h("td", { class: `${side[name]}${row[name] === false ? " worse" : ""}` }, shown(row[name]));
    const body = rows.map((row) =>
      h(
        "tr",
        {},
        names.map((name) => cell(row, name)),
      ),
    );
    return h(
      "div",
      { class: "wide" },
      h("table", {}, h("caption", {}, caption), h("thead", {}, h("tr", {}, head)), h("tbody", {}, body)),
    );
  }

  /** Show a value of JSON; short lists of numbers and words on one line. */
  function shown(value) {
    if (value === undefined || value === null) return "–";
    if (typeof value === "boolean") return value ? "yes" : "no";
    if (typeof value === "number") return String(Number(value.toPrecision(4))).replace("-", "−");
    if (typeof value === "string") return h("bdi", {}, value);
    if (Array.isArray(value)) {
      if (value.length === 0) return "none";
      const each = value.map(shown);
      if (value.every((one) => typeof one === "number")) return each.join(", ");
      return h("ul", {}, each.map((one) => h("li", {}, one)));
    }
    return entries(value);
  }

  return { section };
})();
