// How training went: the logged figures of one method, a line for each training seed.

const training = (() => {
  const [WIDTH, HEIGHT] = [320, 170];
  const EDGE = { left: 52, right: 10, top: 8, bottom: 22 };

  async function view(main, now) {
    const trained = report.runs.filter((run) => run.curves && (!now.model || run.model === now.model));
    const recipes = [...new Set(trained.map((run) => `${run.method} on ${run.model}`))];
    if (recipes.length === 0) {
      main.replaceChildren(h("p", {}, "Nothing was trained here."));
      return;
    }
    const chosen = recipes.includes(now.method) ? now.method : recipes[0];
    const shown = trained
      .filter((run) => `${run.method} on ${run.model}` === chosen)
      .sort((one, other) => one.seed - other.seed);
    const asked = location.hash;
    const loaded = await Promise.all(shown.map((run) => report.load(run.file)));
    if (location.hash !== asked) return;
    const names = [...new Set(loaded.flatMap(({ curves }) => curves.map((curve) => curve.name)))];
    const chooser = segments(
      "Method",
      "method",
      recipes.map((one) => [one, one]),
      chosen,
      (value) => state.change({ method: value }),
    );
    const key = h(
      "p",
      { class: "key" },
      shown.map((run, i) => [h("span", { class: `line-${i % 4}` }, "━"), ` ${run.run}, training seed ${run.seed}  `]),
    );
    const panels = names.map((name) =>
      panel(
        name,
        loaded.map(({ curves }) => curves.find((curve) => curve.name === name)?.points ?? []),
      ),
    );
    main.replaceChildren(
      chooser,
      h(
        "section",
        {},
        h("h2", {}, "Training curves", h("small", {}, "over the optimizer step")),
        key,
        h("div", { class: "charts small" }, panels),
      ),
    );
  }

  function panel(name, curves) {
    const points = curves.flat();
    const [left, right] = [Math.min(...points.map(([step]) => step)), Math.max(...points.map(([step]) => step), 1)];
    const [bottom, top] = charts.extent(points.map(([, value]) => value));
    const x = (step) => EDGE.left + ((step - left) / (right - left || 1)) * (WIDTH - EDGE.left - EDGE.right);
    const y = (value) => HEIGHT - EDGE.bottom - ((value - bottom) / (top - bottom)) * (HEIGHT - EDGE.top - EDGE.bottom);
    const reading = h("output", {});
    const drawing = s(
      "svg",
      { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": `${name} over the optimizer step` },
      charts
        .ticks(bottom, top, 5)
        .map((value) => [
          s("line", { class: "grid", x1: EDGE.left, x2: WIDTH - EDGE.right, y1: y(value), y2: y(value) }),
          s("text", { class: "tick", x: EDGE.left - 6, y: y(value) + 4, "text-anchor": "end" }, charts.label(value)),
        ]),
      charts
        .ticks(left, right, 4)
        .map((step) =>
          s("text", { class: "tick", x: x(step), y: HEIGHT - 6, "text-anchor": "middle" }, charts.label(step)),
        ),
      curves.map((curve, i) => s("path", { class: `curve line-${i % 4}`, d: path(curve, x, y) })),
    );
    drawing.addEventListener("pointermove", (event) => {
      const box = drawing.getBoundingClientRect();
      const step =
        left +
        ((((event.clientX - box.left) / box.width) * WIDTH - EDGE.left) / (WIDTH - EDGE.left - EDGE.right)) *
          (right - left);
      reading.textContent = readings(curves, step);
    });
    drawing.addEventListener("pointerleave", () => (reading.textContent = ""));
    return h("figure", {}, h("figcaption", {}, h("b", {}, name), reading), drawing);
  }

  /** Return a line through the points, broken where a figure was not a number. */
  function path(points, x, y) {
    let isOpen = false;
    return points
      .map(([step, value]) => {
        const command = isOpen ? "L" : "M";
        isOpen = value !== null;
        return isOpen ? `${command}${x(step).toFixed(1)},${y(value).toFixed(1)}` : "";
      })
      .join("");
  }

  /** Write what the curves say at the logged step nearest to one. */
  function readings(curves, step) {
    const nearest = curves
      .filter((curve) => curve.length > 0)
      .map((curve) =>
        curve.reduce((best, point) => (Math.abs(point[0] - step) < Math.abs(best[0] - step) ? point : best)),
      );
    const values = nearest.map(([, value]) => (value === null ? "not a number" : String(Number(value.toPrecision(4)))));
    return ` step ${nearest[0][0]}: ${values.join(", ")}`;
  }

  return { view };
})();
