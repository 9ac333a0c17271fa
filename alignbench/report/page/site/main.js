// Draw the view that the address asks for, and again whenever it changes.

const ALL_FILTERS = ["model", "prompts", "evaluator"];
const VIEWS = [
  // key, name, what draws it, and what its contents can be filtered by
  ["overview", "Overview", overview, ["model", "prompts"]],
  ["leaderboard", "Leaderboard", leaderboard, ALL_FILTERS],
  ["wins", "Win rates", wins, ALL_FILTERS],
  ["groups", "Breakdown", groups, ALL_FILTERS],
  ["settings", "Settings", settings, ALL_FILTERS],
  ["cost", "Cost", cost, ALL_FILTERS],
  ["training", "Training", training, ["model"]],
  ["hacking", "Reward hacking", hacking, ["model", "prompts"]],
  ["images", "Images", images, ALL_FILTERS],
  ["runs", "Runs", runs, ALL_FILTERS],
];
const EMPTY = {
  settings: !report.sections.some((section) => section.settings),
  groups: !report.sections.some((section) => section.groups),
  training: !report.runs.some((run) => run.curves),
};

/** Draw the tabs of the views that show something, and the filters of the chosen one. */
function drawHeader(now) {
  const tabs = VIEWS.filter(([key]) => !EMPTY[key] || now.view === key).map(([key, name]) =>
    h(
      "a",
      {
        href: state.address({ view: key, sort: "", direction: "", open: "", run: "" }),
        "data-key": `view:${key}`,
        "aria-current": now.view === key ? "page" : null,
      },
      name,
    ),
  );
  document.getElementById("views").replaceChildren(...tabs);
  const fixed = now.view === "images" ? images.resolved(now) : null; // the one view of a single section
  const filter = (label, key, values) => {
    const nameOf = { evaluator: report.evaluatorName, prompts: report.promptName }[key] ?? ((value) => value);
    const choices = values.map((value) => [value, short(nameOf(value))]);
    const choose = (value) => state.change({ [key]: value, sort: "", open: "", run: "" });
    return (
      viewOf(now)[3].includes(key) &&
      values.length > 1 &&
      choice(label, key, fixed ? choices : [["", "all"], ...choices], fixed?.[key] ?? now[key], choose)
    );
  };
  const filters = [
    filter("model", "model", report.models),
    filter("prompts", "prompts", report.promptSets),
    filter("evaluator", "evaluator", report.evaluators),
  ];
  document.getElementById("filters").replaceChildren(...filters.filter(Boolean));
}

const viewOf = (now) => VIEWS.find(([key]) => key === now.view) ?? VIEWS[0];

/** Return a state without the filters that its view does not offer. */
function offered(now) {
  const hidden = ALL_FILTERS.filter((key) => !viewOf(now)[3].includes(key));
  return { ...now, ...Object.fromEntries(hidden.map((key) => [key, ""])) };
}

let drawn = ""; // the state of the view that is there, dialogs aside

async function drawPage() {
  const now = offered(state.read());
  const asked = JSON.stringify({ ...now, open: "", run: "" });
  if (asked === drawn && now.view !== "images") {
    runs.open(now); // the view stays as it is, and with it the focus that a dialog gives back
    return;
  }
  const focused = document.activeElement?.dataset?.key;
  const main = document.getElementById("main");
  document.body.dataset.view = now.view;
  const dialog = document.getElementById("dialog");
  if (now.view !== "images" && dialog.className === "one-prompt") state.closeByAddress(dialog);
  drawHeader(now);
  drawn = "";
  const { hash } = location;
  if (report.chosen(now).length === 0) {
    main.replaceChildren(h("p", {}, "Nothing was measured for this choice."));
    return;
  }
  try {
    await viewOf(now)[2].view(main, now);
  } catch (error) {
    main.replaceChildren(h("p", { role: "alert" }, error.message));
    throw error;
  }
  if (location.hash !== hash) return; // who asked last draws
  drawn = asked;
  if (focused) document.querySelector(`[data-key="${CSS.escape(focused)}"]`)?.focus({ preventScroll: true });
  runs.open(now);
}

let answered = 0; // when a key was

function answerKey(event) {
  if (event.repeat && event.timeStamp < answered + 80) return; // browsers refuse to change the address more often
  answered = event.timeStamp;
  if ((event.ctrlKey || event.metaKey) && event.key === "p" && state.read().view === "images") {
    event.preventDefault();
    images.printWhenLoaded();
    return;
  }
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const isTyping = event.target.matches("input, select, textarea");
  if (isTyping) {
    if (event.key === "Escape" || (event.key === "Enter" && event.target.type === "search")) event.target.blur();
    return;
  }
  if (event.key === "Enter" && event.target.matches("a, button")) return; // which it presses
  if (images.key(event.key)) event.preventDefault();
}

window.addEventListener("hashchange", drawPage);
window.addEventListener("keydown", answerKey);
window.addEventListener("resize", images.redraw);
window.addEventListener("beforeprint", images.print);
window.addEventListener("afterprint", images.printed);
document.getElementById("dialog").addEventListener("close", ({ target }) => {
  const { view, open } = state.read();
  state.dialogClosed(target);
  if (view === "images") images.closed(open);
});
drawPage();
