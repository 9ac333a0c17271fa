// Draw the view that the address asks for, and again whenever it changes.

const VIEWS = [
  ["leaderboard", "Leaderboard", leaderboard],
  ["wins", "Win rates", wins],
  ["groups", "Breakdown", groups],
  ["cost", "Cost", cost],
  ["training", "Training", training],
  ["hacking", "Reward hacking", hacking],
  ["images", "Images", images],
  ["runs", "Runs", runs],
];

/** Draw the tabs and the filters. */
function drawHeader(now) {
  const tabs = VIEWS.map(([key, name]) =>
    h(
      "a",
      {
        href: state.address({ view: key, sort: "", direction: "", open: "" }),
        "data-key": `view:${key}`,
        "aria-current": now.view === key ? "page" : null,
      },
      name,
    ),
  );
  document.getElementById("views").replaceChildren(...tabs);
  const fixed = now.view === "images" ? images.resolved(now) : null; // the one view of a single section
  const filter = (label, key, values) => {
    const choices = values.map((value) => [value, value]);
    const choose = (value) => state.change({ [key]: value, sort: "", open: "" });
    return (
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

async function drawPage() {
  const now = state.read();
  const focused = document.activeElement?.dataset?.key;
  const main = document.getElementById("main");
  document.body.dataset.view = now.view;
  const dialog = document.getElementById("dialog");
  if (now.view !== "images" && dialog.className === "one-prompt") dialog.close();
  drawHeader(now);
  const view = (VIEWS.find(([key]) => key === now.view) ?? VIEWS[0])[2];
  if (report.chosen(now).length === 0) {
    main.replaceChildren(h("p", {}, "Nothing was measured for this choice."));
    return;
  }
  try {
    await view.view(main, now);
  } catch (error) {
    main.replaceChildren(h("p", { role: "alert" }, error.message));
    throw error;
  }
  if (focused) document.querySelector(`[data-key="${CSS.escape(focused)}"]`)?.focus({ preventScroll: true });
}

let answered = 0; // when a key was

function answerKey(event) {
  if (event.repeat && event.timeStamp < answered + 80) return; // browsers refuse to change the address more often
  answered = event.timeStamp;
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
document.getElementById("dialog").addEventListener("close", images.closed);
drawPage();
