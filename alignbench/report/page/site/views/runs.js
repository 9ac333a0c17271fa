// The runs: what each is and cost, what it was made with, and its whole configuration.

const runs = (() => {
  /** Make the button that opens the settings of a method's runs. */
  function methodButton(section, method) {
    const open = () => show(section.methods.find((one) => one.method === method).runs);
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

  /** Open the settings of some runs in the dialog, the first one chosen. */
  function show(names) {
    const dialog = document.getElementById("dialog");
    const body = h("div", {});
    const choose = async (name) => {
      try {
        body.replaceChildren(...details(await report.load(report.run(name).file)));
      } catch (error) {
        body.replaceChildren(h("p", { role: "alert" }, error.message));
      }
    };
    const title = h(
      "h2",
      { id: "dialog-title", tabindex: "-1", autofocus: true },
      names.length > 1 ? `${names.length} runs` : names[0],
    );
    const picker =
      names.length > 1 &&
      choice(
        "run",
        "run",
        names.map((name) => [name, name]),
        names[0],
        choose,
      );
    const close = h("button", { type: "button", class: "close", click: () => dialog.close() }, "Close");
    dialog.replaceChildren(h("div", { class: "dialog-head" }, title, picker, close), body);
    dialog.className = "settings";
    if (!dialog.open) dialog.showModal();
    choose(names[0]);
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
    const shown = report.runs.filter((run) => !now.model || run.model === now.model);
    const columns = [
      { key: "run", head: "run", ascendingFirst: true },
      { key: "method", head: "method", ascendingFirst: true },
      { key: "model", head: "model", ascendingFirst: true },
      { key: "seed", head: "training seed", ascendingFirst: true },
    ];
    const rows = shown.map((run) => ({
      cells: {
        run: {
          value: run.run,
          content: h(
            "button",
            { type: "button", class: "link", "data-key": `run:${run.run}`, click: () => show([run.run]) },
            run.run,
          ),
        },
        method: { value: run.method, content: run.method },
        model: { value: run.model, content: run.model },
        seed: { value: run.seed, content: run.seed === null ? "" : String(run.seed) },
      },
    }));
    const caption = "Runs: press one for its settings, versions and costs";
    main.replaceChildren(sortableTable({ caption, columns, rows }, now));
  }

  return { view, show, methodButton };
})();
