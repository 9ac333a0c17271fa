// What is shown, kept in the address behind `#`, so that a view can be shared and the browser's back button works.

const state = (() => {
  const DEFAULTS = {
    view: "overview",
    model: "", // this and the next two: empty for all
    prompts: "",
    evaluator: "",
    measure: "score", // of the leaderboard and the styles
    sort: "", // key of a column
    direction: "", // ascending or descending
    method: "",
    against: "",
    group: "",
    unit: "", // of budgets
    seed: "",
    order: "", // of the images: as in the prompt set, wins or losses
    search: "",
    open: "", // image that is looked at, `<prompt id>-<number>`
    run: "", // run whose settings are looked at
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

  let isOwnEntry = false; // whether the entry before the dialog's in the history is the page without it

  /** Open a dialog by values that name what it shows; the back button closes it. */
  function openDialog(changes) {
    isOwnEntry = true;
    change(changes);
  }

  const BY_ADDRESS = "by address";

  /** Close a dialog that the address no longer asks for. */
  function closeByAddress(dialog) {
    dialog.close(BY_ADDRESS);
  }

  /**
   * Take a dialog that was closed out of the address: as the back button would, or in place where a link opened it.
   *
   * Browsers tell later that a dialog was closed; by then the address may have asked for it again.
   */
  function dialogClosed(dialog) {
    const wasByAddress = dialog.returnValue === BY_ADDRESS;
    dialog.returnValue = "";
    if (dialog.open) return;
    const { open, run } = read();
    if ((open || run) && !wasByAddress) {
      if (isOwnEntry) history.back();
      else change({ open: "", run: "" }, { replace: true });
    }
    isOwnEntry = false;
  }

  return { read, change, address, openDialog, closeByAddress, dialogClosed };
})();
