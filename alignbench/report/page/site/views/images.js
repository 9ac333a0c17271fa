// The image browser: a line a prompt, every method's image beside the others; only the lines in sight exist.

const images = (() => {
  const PRINTED = 48; // lines, at most
  const SPARE = 4; // lines kept ready above and below those in sight
  const ORDERS = [
    ["", "as in the prompt set"],
    ["wins", "largest wins"],
    ["losses", "largest losses"],
  ];
  let browser = null; // what is shown now

  async function view(main, now) {
    const section = report.chosen(now)[0];
    const seeds = seedsOf(section);
    const seed = seeds.map(String).includes(now.seed) ? Number(now.seed) : (seeds[0] ?? null);
    const sets = section.images.sets.filter((one) => [seed, null].includes(report.run(one.run).seed));
    const asked = location.hash;
    const [prompts, ...loaded] = await Promise.all(
      [section.images.prompts, ...sets.map((one) => one.file)].map(report.load),
    );
    if (location.hash !== asked) return; // who asked last is served
    const isBase = (method) => section.methods.find((one) => one.method === method).isBase;
    const columns = sets.map((one, i) => ({ name: one.method, isBase: isBase(one.method), set: loaded[i], evidence: one.evidence }));
    columns.sort((one, other) => other.isBase - one.isBase); // base first, what it is compared with beside it
    const key = [section.model, section.promptSet, seed].join("\n");
    if (browser?.key !== key || !main.contains(browser.list)) {
      browser = { key, section, columns, prompts, all: listOf(prompts), current: 0, lines: new Map() };
      build(main, seeds, seed);
    }
    select(now);
    open(now);
  }

  /** Return the one model, prompt set and evaluator that a state comes to here. */
  function resolved(now) {
    const section = report.chosen(now)[0];
    const [, evaluator] = (section && report.evaluatorsOf(section, now)[0]) ?? [];
    return {
      model: section?.model,
      prompts: section?.promptSet,
      evaluator: (evaluator ?? section?.evaluators[0])?.key,
    };
  }

  const seedsOf = (section) =>
    [...new Set(section.images.sets.map((one) => report.run(one.run).seed))]
      .filter((seed) => seed !== null)
      .sort((a, b) => a - b);

  /** Return all images of all prompts; several of one prompt follow each other. */
  function listOf(prompts) {
    let place = 0;
    return prompts.ids.flatMap((id, i) =>
      Array.from({ length: prompts.counts[i] }, (_, number) => ({
        key: `${id}-${number}`,
        text: prompts.texts[i],
        words: `${id}-${number} ${prompts.texts[i]}`.normalize("NFKC").toLowerCase(),
        groups: prompts.memberships[i].map((group) => prompts.groups[group]),
        place: place++,
      })),
    );
  }

  // ---- the frame

  /** Return a function that does something once nobody has called it for a moment. */
  function later(work) {
    let waiting = 0;
    return () => {
      clearTimeout(waiting);
      waiting = setTimeout(work, 120);
    };
  }

  function build(main, seeds, seed) {
    const { section, columns, prompts } = browser;
    browser.tools = h("div", { class: "tools", role: "search" });
    browser.search = h("input", {
      type: "search",
      placeholder: "search the prompts  ( / )",
      "aria-label": "Search the prompts",
      "data-key": "search",
      input: later(() => state.change({ search: browser.search.value }, { replace: true })),
    });
    browser.count = h("output", { "aria-live": "polite" });
    browser.lineBox = h("ol", { class: "lines", role: "list", "aria-label": "Prompts" });
    const head = h(
      "div",
      { class: "line line-head" },
      h("span", {}, `${section.model}, ${section.promptName}`),
      columns.map((column) => h("b", { title: column.name }, breakable(short(column.name)))),
    );
    browser.list = h("div", { class: "browser" }, head, browser.lineBox);
    browser.list.style.setProperty("--methods", columns.length);
    browser.list.addEventListener("scroll", () => requestAnimationFrame(draw), { passive: true });
    browser.options = h("div", { class: "options" });
    browser.seedChoice =
      seeds.length > 1 &&
      choice(
        "training seed",
        "seed",
        seeds.map((one) => [String(one), String(one)]),
        String(seed),
        (value) => state.change({ seed: value }),
      );
    browser.groupChoices = [["", "all"], ...prompts.groups.map((group) => [group, group])];
    const button = h("button", { type: "button", "data-key": "print", click: printWhenLoaded }, "Print");
    browser.tools.append(browser.search, browser.options, browser.count, button);
    const keys = h(
      "p",
      { class: "keys" },
      h("kbd", {}, "↓"),
      h("kbd", {}, "j"),
      " next ",
      h("kbd", {}, "↑"),
      h("kbd", {}, "k"),
      " previous ",
      h("kbd", {}, "Enter"),
      " open ",
      h("kbd", {}, "Esc"),
      " close ",
      h("kbd", {}, "/"),
      " search. ",
      section.sampling,
    );
    browser.onPaper = h("p", { class: "on-paper" });
    main.replaceChildren(browser.tools, keys, browser.onPaper, browser.list);
  }

  // ---- which images, in which order

  /** Choose and order the images by a state, and show them from the top where they have changed. */
  function select(now) {
    const { section, columns, all } = browser;
    const [number, evaluator] = report.evaluatorsOf(section, now)[0] ?? [0, section.evaluators[0]];
    const names = columns.map((column) => column.name);
    const method = names.includes(now.method)
      ? now.method
      : (names.find((name) => !columns[names.indexOf(name)].isBase) ?? names[0]);
    const against = names.includes(now.against)
      ? now.against
      : (columns.find((column) => column.isBase)?.name ?? names[0]);
    Object.assign(browser, { number, evaluator, against: columns[names.indexOf(against)] });
    const asked = [now.search, now.group, now.order, method, against, evaluator.key].join("\n");
    if (browser.asked !== asked) {
      const words = now.search.normalize("NFKC").toLowerCase().split(/\s+/).filter(Boolean);
      const found = all.filter(
        (image) =>
          words.every((word) => image.words.includes(word)) && (!now.group || image.groups.includes(now.group)),
      );
      browser.shown = now.order ? byGain(found, columns[names.indexOf(method)], browser.against, now.order) : found;
      browser.count.textContent = `${browser.shown.length.toLocaleString("en")} of ${all.length.toLocaleString("en")} images`;
      if (browser.asked !== undefined) browser.current = 0;
      browser.asked = asked;
      browser.lines.clear();
      browser.lineBox.replaceChildren();
      browser.list.scrollTop = 0;
    }
    if (document.activeElement !== browser.search) browser.search.value = now.search;
    offer(now, names, method, against);
    draw();
  }

  /** Order images by how much a method scores above another one; those that either lacks are left out. */
  function byGain(found, one, other, order) {
    const { number, evaluator } = browser;
    const [a, b] = [one.set.scores[number] ?? [], other.set.scores[number] ?? []];
    const sign = (evaluator.higherIsBetter ? 1 : -1) * (order === "wins" ? 1 : -1);
    const lead = (image) => sign * (a[image.place] - b[image.place]);
    return found
      .filter((image) => Number.isFinite(a[image.place]) && Number.isFinite(b[image.place]) && lead(image) > 0)
      .sort((x, y) => lead(y) - lead(x));
  }

  function offer(now, names, method, against) {
    const named = names.map((name) => [name, short(name)]);
    const change = (key) => (value) => state.change({ [key]: value });
    browser.options.replaceChildren(
      ...[
        choice("order", "order", ORDERS, now.order, change("order")),
        now.order && choice("of", "method", named, method, change("method")),
        choice(now.order ? "over" : "compared with", "against", named, against, change("against")),
        browser.groupChoices.length > 1 && choice("group", "group", browser.groupChoices, now.group, change("group")),
        browser.seedChoice,
      ].filter(Boolean),
    );
  }

  // ---- the lines

  /** Put the lines in sight into the page, and take the others out. */
  function draw() {
    const { list, lineBox, lines, shown } = browser;
    if (!list.isConnected) return;
    const height = lineHeight();
    lineBox.style.height = `${shown.length * height}px`;
    const first = Math.max(Math.floor(list.scrollTop / height) - SPARE, 0);
    const last = Math.min(Math.ceil((list.scrollTop + list.clientHeight) / height) + SPARE, shown.length);
    for (const [row, element] of lines) {
      if (row < first || row >= last) {
        element.remove();
        lines.delete(row);
      }
    }
    for (let row = first; row < last; row++) {
      if (!lines.has(row)) {
        const element = line(shown[row], row);
        element.style.top = `${row * height}px`;
        lines.set(row, element);
        lineBox.append(element);
      }
      lines.get(row).classList.toggle("current", row === browser.current);
    }
  }

  const lineHeight = () => parseFloat(getComputedStyle(browser.list).getPropertyValue("--line")) || 190;

  function line(image, row) {
    const goTo = () => state.openDialog({ open: image.key });
    const button = h(
      "button",
      {
        type: "button",
        class: "link",
        "data-row": row,
        click: () => {
          browser.current = row;
          goTo();
        },
        focus: () => mark(row),
      },
      image.key,
    );
    const text = h("p", { dir: "auto" }, image.text);
    const about = h(
      "div",
      { class: "about" },
      button,
      text,
      image.groups.map((group) => h("bdi", { class: "chip" }, group)),
    );
    return h(
      "li",
      { class: "line", "aria-setsize": browser.shown.length, "aria-posinset": row + 1 },
      about,
      browser.columns.map((column) =>
        tile(column, image, () => {
          browser.current = row;
          goTo();
        }),
      ),
    );
  }

  function tile(column, image, click) {
    const { number, evaluator, against } = browser;
    const score = column.set.scores[number]?.[image.place] ?? null;
    const other = against?.set.scores[number]?.[image.place] ?? null;
    const difference = column !== against && score !== null && other !== null && gain(score - other, evaluator);
    return h(
      "div",
      { class: "tile", click },
      thumbnailOf(column, image),
      h("span", { class: "score" }, scoreText(score, evaluator), " ", difference),
    );
  }

  function thumbnailOf(column, image) {
    const perSprite = report.sprite.columns * report.sprite.rows;
    const sprite = column.set.sprites[Math.floor(image.place / perSprite)];
    if (!sprite || !column.set.files[image.place]) return h("span", { class: "thumbnail absent" }, "no image here");
    return thumbnail(sprite, image.place, `${column.name}, ${image.key}`);
  }

  // ---- moving

  function mark(row) {
    browser.current = row;
    draw();
  }

  /** Go some lines down or up, and keep that line in sight. */
  function move(step) {
    const { list, shown, lines } = browser;
    if (shown.length === 0) return;
    const row = Math.min(Math.max(browser.current + step, 0), shown.length - 1);
    browser.current = row;
    const height = lineHeight();
    const head = list.firstChild.offsetHeight;
    if (row * height < list.scrollTop) list.scrollTop = row * height;
    else if ((row + 1) * height + head > list.scrollTop + list.clientHeight)
      list.scrollTop = (row + 1) * height + head - list.clientHeight;
    draw();
    lines.get(row)?.querySelector("button").focus({ preventScroll: true });
  }

  /** Open the image that a state names, or close the one that is open. */
  function open(now) {
    const dialog = document.getElementById("dialog");
    const image = now.open && browser.all.find((one) => one.key === now.open);
    if (!image) {
      if (dialog.className === "one-prompt" && dialog.open) state.closeByAddress(dialog);
      return;
    }
    const row = browser.shown.indexOf(image);
    if (row >= 0) browser.current = row;
    prompt.show(browser, image, {
      before: browser.shown[row - 1],
      after: row >= 0 ? browser.shown[row + 1] : undefined,
    });
  }

  /** Go to the image before or after the open one. */
  function step(by) {
    const row = browser.shown.findIndex((image) => image.key === state.read().open) + by;
    if (browser.shown[row]) state.change({ open: browser.shown[row].key }, { replace: true });
  }

  /** Answer a key; return whether it meant something here. */
  function key(name) {
    if (state.read().view !== "images" || !browser?.list.isConnected) return false;
    const steps = { j: 1, ArrowDown: 1, k: -1, ArrowUp: -1, ArrowRight: 1, ArrowLeft: -1 };
    if (document.getElementById("dialog").open) {
      if (name in steps) step(steps[name]);
      return name in steps;
    }
    if (name === "/") browser.search.focus();
    else if (name === "Enter" && browser.shown[browser.current])
      state.openDialog({ open: browser.shown[browser.current].key });
    else if (name in steps && !name.endsWith("Left") && !name.endsWith("Right")) move(steps[name]);
    else return false;
    return true;
  }

  /** Come back from the image that was open to its line. */
  function closed(open) {
    if (!browser?.list.isConnected) return;
    const row = browser.shown.findIndex((image) => image.key === open);
    if (row >= 0) browser.current = row; // by now the browser has put the focus back on the line that was left
    move(0);
  }

  // ---- paper

  /** Return the lines that would be printed now, from the first one in sight on, and the row of that one. */
  function toPrint() {
    const first = Math.floor(browser.list.scrollTop / lineHeight());
    return [browser.shown.slice(first, first + PRINTED), first];
  }

  /** Print once the thumbnails that will stand on the paper are here: printing waits for nothing. */
  async function printWhenLoaded() {
    const perSprite = report.sprite.columns * report.sprite.rows;
    const sprites = browser.columns.flatMap((column) =>
      toPrint()[0].map((image) => column.set.sprites[Math.floor(image.place / perSprite)]),
    );
    browser.loaded = [...new Set(sprites.filter(Boolean))].map((src) => Object.assign(new Image(), { src }));
    await Promise.allSettled(browser.loaded.map((image) => image.decode()));
    window.print();
  }

  /** Put the lines that are printed into the page: those in sight alone would leave the paper empty. */
  function print() {
    if (!browser?.list.isConnected) return;
    const { lineBox, lines, shown } = browser;
    const [printed, first] = toPrint();
    lines.clear();
    lineBox.style.height = "auto";
    lineBox.replaceChildren(...printed.map((image, i) => line(image, first + i)));
    browser.onPaper.textContent =
      printed.length < shown.length
        ? `Images ${first + 1} to ${first + printed.length} of ${shown.length.toLocaleString("en")}: at most ${PRINTED} are printed, from the first in sight on.`
        : "";
  }

  /** Go back to the lines in sight. */
  function printed() {
    if (!browser?.list.isConnected) return;
    browser.lines.clear();
    browser.lineBox.replaceChildren();
    draw();
  }

  return {
    view,
    resolved,
    key,
    closed,
    print,
    printed,
    printWhenLoaded,
    redraw: () => browser?.list.isConnected && draw(),
  };
})();
