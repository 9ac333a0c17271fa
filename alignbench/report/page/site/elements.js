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

/** Put children in: elements, texts, and lists of them; what is null, undefined or false is left out. */
function fill(element, children) {
  element.append(
    ...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false),
  );
  return element;
}

/** Make an HTML element; children as for `fill`. */
function h(name, attributes = {}, ...children) {
  return fill(setAttributes(document.createElement(name), attributes), children);
}

/** Make an SVG element; children as for `fill`. */
function s(name, attributes = {}, ...children) {
  return fill(setAttributes(document.createElementNS("http://www.w3.org/2000/svg", name), attributes), children);
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

/** Cut the middle out of a long name: both ends tell it apart. The whole name belongs into a title beside it. */
function short(name, limit = 24) {
  const letters = [...name];
  if (letters.length <= limit) return name;
  const end = Math.floor((limit - 1) / 2);
  return [...letters.slice(0, limit - 1 - end), "…", ...letters.slice(letters.length - end)].join("");
}

/** Show one image of a sprite, at its place in the list of all images; a sprite holds a part of the list. */
function thumbnail(sprite, place, label) {
  const { columns, rows } = report.sprite;
  const element = h("span", { class: "thumbnail", role: "img", "aria-label": label });
  const inside = place % (columns * rows);
  element.style.backgroundImage = `url("${sprite}")`;
  element.style.setProperty("--columns", columns);
  element.style.setProperty("--column", inside % columns);
  element.style.setProperty("--row", Math.floor(inside / columns));
  return element;
}

/** Return a name that may be broken after a sign. */
function breakable(name, sign = "_") {
  const parts = name.split(sign);
  return parts.flatMap((part, i) => (i < parts.length - 1 ? [part + sign, h("wbr")] : [part]));
}

/** Return the parts of a figure as the tables write it, `21.40 [21.27, 21.53]`, with the interval on its own. */
function figure(text, stars = "", marks = []) {
  const [, value, interval, rest] = text.match(/^([^[]*?)(?: (\[[^\]]*\]))?( .*)?$/);
  return [
    h("span", { class: "value" }, value, rest ?? ""),
    stars && h("span", { class: stars.startsWith("*") ? "stars" : "stars not" }, ` ${stars}`),
    marks.length > 0 && h("sup", {}, marks.join(",")),
    interval && h("span", { class: "interval" }, interval),
  ];
}

/** Tint an element by a win rate in percent: blue above 50, orange below, faint where that is not significant. */
function tint(element, { value, stars }) {
  if (value === null) return element;
  element.classList.add("heat", value >= 50 ? "wins" : "loses");
  const strength = stars.startsWith("*") ? 2 : 0.6;
  element.style.setProperty("--mix", `${Math.min(Math.abs(value - 50) * strength, 60).toFixed(1)}%`);
  return element;
}

/** Write a score of one image in the scale of the tables. */
function scoreText(score, evaluator) {
  return score === null ? "" : (evaluator.scale * score).toFixed(evaluator.digits).replace("-", "−");
}

/** Show a difference of two scores with its sign, coloured by whether it is one for the better. */
function gain(difference, evaluator) {
  const text = scoreText(difference, evaluator);
  if (!/[1-9]/.test(text)) return h("span", { class: "gain" }, text.replace("−", ""));
  const isBetter = evaluator.higherIsBetter === difference > 0;
  return h("span", { class: `gain ${isBetter ? "better" : "worse"}` }, difference > 0 ? `+${text}` : text);
}
