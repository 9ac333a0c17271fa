// What is shown, kept in the address behind `#`, so that a view can be shared and the browser's back button works.

const state = (() => {
  const DEFAULTS = {
    view: "leaderboard",
    model: "", // this and the next two: empty for all
    prompts: "",
    evaluator: "",
    measure: "median",
    sort: "", // key of a column
    direction: "", // ascending or descending
    method: "",
    against: "",
    group: "",
    seed: "",
    order: "", // of the images: as in the prompt set, wins or losses
    search: "",
    open: "", // image that is looked at, `<prompt id>-<number>`
  };

  /** Return the state that the address asks for. */
  function read() {
    const given = new URLSearchParams(location.hash.slice(1));
    return Object.fromEntries(Object.entries(DEFAULTS).map(([key, value]) => [key, given.get(key) ?? value]));
  }

  /** Return the address of the present state with some values changed. */
  function address(changes) {
    const entries = Object.entries({ ...read(), ...changes }).filter(([key, value]) => value !== DEFAULTS[key]);
    return `#${new URLSearchParams(entries)}`;
  }

  /** Change values; with `replace`, the back button does not return to what was. */
  function change(changes, { replace = false } = {}) {
    const target = address(changes);
    if (replace) location.replace(target);
    else location.hash = target;
  }

  return { read, change, address };
})();
