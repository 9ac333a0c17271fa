// Tables that can be sorted by any of their columns.

/**
 * Make a table.
 *
 * @param {object} table
 * @param {string} table.caption
 * @param {{key: string, head: string, title?: string, class?: string, ascendingFirst?: boolean}[]} table.columns the
 *   first names the row; a title tells what the head cuts short
 * @param {{cells: object, below?: Node[]}[]} table.rows by column key, cells of `{content, value, class}`, those without
 *   a value sorted last; and rows that stay below theirs
 * @param {object} now the state, whose `sort` and `direction` order the rows; without a sort they stay as given
 */
function sortableTable({ caption, columns, rows }, now) {
  const sorted = columns.find((column) => column.key === now.sort);
  const ordered = sorted ? [...rows].sort(comparison(sorted.key, now.direction === "descending" ? -1 : 1)) : rows;
  const head = columns.map((column) => {
    const isSorted = column === sorted;
    const next = isSorted
      ? { ascending: "descending", descending: "ascending" }[now.direction]
      : column.ascendingFirst
        ? "ascending"
        : "descending";
    return h(
      "th",
      { scope: "col", title: column.title, class: column.class, "aria-sort": isSorted ? now.direction : "none" },
      h(
        "button",
        {
          type: "button",
          class: "sort",
          "data-key": `sort:${caption}:${column.key}`,
          click: () => state.change({ sort: column.key, direction: next }, { replace: true }),
        },
        breakable(column.head),
      ),
    );
  });
  const body = ordered.flatMap((row) => [
    h(
      "tr",
      {},
      columns.map((column, i) => tableCell(row, column, i)),
    ),
    ...(row.below ?? []),
  ]);
  return h(
    "div",
    { class: "wide" },
    h("table", {}, h("caption", {}, caption), h("thead", {}, h("tr", {}, head)), h("tbody", {}, body)),
  );
}

/** Make a cell, the first of a row as its head. */
function tableCell(row, column, place) {
  const cell = row.cells[column.key] ?? { content: "" };
  const element =
    place === 0
      ? h("th", { scope: "row", class: cell.class }, cell.content)
      : h("td", { class: cell.class }, cell.content);
  return !cell.heat ? element : tint(element, cell.heat);
}

/** Return a comparison of rows by one column; rows without a value come last either way. */
function comparison(key, sign) {
  const valueOf = (row) => row.cells[key]?.value ?? null;
  return (one, other) => {
    const [a, b] = [valueOf(one), valueOf(other)];
    if (a === null || b === null) return (a === null) - (b === null);
    return sign * (typeof a === "string" ? a.localeCompare(b) : a - b);
  };
}

/** Make a table of texts as the report has it, numbers to the right. */
function plainTable({ title, heads, rows }) {
  const isOfWords = (i) => rows.every((cells) => !/^[-\u2212\d.]/.test(cells[i]));
  const sides = heads.map((_, i) => (isOfWords(i) ? "left" : null));
  const body = rows.map((cells) =>
    h(
      "tr",
      {},
      cells.map((text, i) =>
        i === 0
          ? h("th", { scope: "row", title: text }, short(text))
          : h("td", { class: sides[i] }, text.includes(" [") ? figure(text) : text),
      ),
    ),
  );
  const head = h(
    "tr",
    {},
    heads.map((text, i) => h("th", { scope: "col", class: sides[i] }, breakable(text))),
  );
  return h(
    "div",
    { class: "wide" },
    h("table", {}, h("caption", {}, title), h("thead", {}, head), h("tbody", {}, body)),
  );
}

/** Make the list of sentences that explain the signs of some sections' tables, those of the kinds that are shown. */
function noteList(sections, kinds) {
  const isOfSection = (kind) => sections.length > 1 && ["rank", "limits"].includes(kind);
  const all = sections.flatMap((section) =>
    section.notes
      .filter(({ kind }) => kinds.includes(kind))
      .map(({ kind, text }) => (isOfSection(kind) ? `${section.model}, ${section.promptName}: ${text}` : text)),
  );
  const notes = new Set(all);
  return h(
    "ul",
    { class: "notes" },
    [...notes].map((note) => h("li", {}, note)),
  );
}

/** Make the heading of a section, with the letters of the notes that hold for all of it where the view has these notes. */
function sectionHeading(section, letters = section.marks) {
  const marks = letters.length > 0 && h("sup", {}, letters.join(","));
  const prompts = h("span", { title: section.promptSet }, short(section.promptName, 40), marks);
  const stored = section.promptName !== section.promptSet && h("small", {}, `${section.promptSet} in the files`);
  const model = h("span", { class: "model", title: section.model }, short(section.model, 40));
  return h("h2", {}, model, prompts, stored, h("small", {}, section.sampling));
}

const MANY_FLAGS = 3; // more than these are folded

/** Say which methods of a section hack their reward, the worst first, and what else warns of its figures. */
function flagList(section, isFolded = section.flags.length > MANY_FLAGS) {
  const flags = section.flags.map(({ text, lowest }) =>
    h(
      "p",
      { class: "flag" },
      h("span", { class: "lowest" }, h("b", {}, lowest), " lowest held-out win rate"),
      h("span", {}, text),
    ),
  );
  const names = section.flags.map(({ method, lowest }) => `${method} (${lowest})`).join(", ");
  const about = `${flags.length} methods are flagged; in parentheses the lowest held-out win rate of each: ${names}`;
  return [
    isFolded ? h("details", { class: "flags" }, h("summary", { class: "flag" }, about), flags) : flags,
    section.warnings.map((text) => h("p", { class: "warning" }, text)),
  ];
}
