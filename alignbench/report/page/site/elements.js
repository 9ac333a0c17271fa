// Make elements. Whatever a prompt or a name holds is put in as text, and never read as markup.

/** Set attributes: functions become listeners, true is an empty attribute; false, null and undefined set nothing. */
function setAttributes(element, attributes) {
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(name, value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, value);
  }
  return element;
}

/** Make an HTML element; children are elements or texts, and what is null or false is left out. */
function h(name, attributes = {}, ...children) {
  const element = setAttributes(document.createElement(name), attributes);
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** Make an SVG element; children as for `h`. */
function s(name, attributes = {}, ...children) {
  const element = setAttributes(document.createElementNS("http://www.w3.org/2000/svg", name), attributes);
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** Make a drop-down list with its label; `choices` are [value, text]. */
function choice(label, key, choices, chosen, onChange) {
  const options = choices.map(([value, text]) => h("option", { value, selected: value === chosen }, text));
  const select = h("select", { "data-key": key, change: (event) => onChange(event.target.value) }, options);
  return h("label", { class: "choice" }, h("span", {}, label), select);
}

/** Make a row of buttons of which one is pressed; `choices` are [value, text]. */
function segments(label, key, choices, chosen, onChange) {
  return h(
    "div",
    { class: "segments", role: "group", "aria-label": label },
    choices.map(([value, text]) =>
      h(
        "button",
        {
          type: "button",
          "data-key": `${key}:${value}`,
          "aria-pressed": String(value === chosen),
          click: () => onChange(value),
        },
        text,
      ),
    ),
  );
}

/** Return the parts of a figure as the tables write it, `21.40 [21.27, 21.53]`, with the interval on its own. */
function figure(text, stars = "", marks = []) {
  const [, value, interval, rest] = text.match(/^([^[]*?)(?: (\[[^\]]*\]))?( .*)?$/);
  return [
    h("span", { class: "value" }, value, rest ?? ""),
    stars && h("span", { class: stars.includes("*") ? "stars" : "stars not" }, ` ${stars}`),
    marks.length > 0 && h("sup", {}, marks.join(",")),
    interval && h("span", { class: "interval" }, interval),
  ];
}

/** Tint an element by a win rate in percent: blue above 50, orange below. */
function tint(element, percent) {
  if (percent === null) return element;
  element.classList.add("heat", percent >= 50 ? "wins" : "loses");
  element.style.setProperty("--mix", `${Math.min(Math.abs(percent - 50) * 1.2, 60).toFixed(1)}%`);
  return element;
}

/** Write a score of one image in the scale of the tables. */
function scoreText(score, evaluator) {
  if (score === null || score === undefined) return "";
  const text = (evaluator.scale * score).toFixed(3);
  return Number(text) === 0 ? "0.000" : text;
}

/** Write a difference of two scores, with its sign. */
function gainText(gain, evaluator) {
  const text = scoreText(gain, evaluator);
  return gain > 0 ? `+${text}` : text.replace("-", "−");
}
