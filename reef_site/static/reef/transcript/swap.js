// Replacing elements by newly rendered ones.
import { badge } from "../badge.js";
import { tick } from "../base.js";
import { unlessSelected } from "../selection.js";

const byId = (id) => document.getElementById(id);

// Replace each element by id. Open details and the focus are kept.
export function swap(fragment) {
  for (const fresh of [...fragment.children]) {
    const old = byId(fresh.id);
    if (old) replace(old, fresh);
  }
  badge.paint();
  tick();
}

export function replace(old, fresh) {
  unlessSelected(old, () => old.isConnected && putInPlace(old, fresh));
}

function putInPlace(old, fresh) {
  for (const details of old.querySelectorAll("details[id]")) {
    const same = fresh.querySelector(`#${CSS.escape(details.id)}`);
    if (same && !("auto" in details.dataset)) same.open = details.open;
  }
  const focused = old.contains(document.activeElement) ? document.activeElement.id : "";
  old.replaceWith(fresh);
  if (focused) byId(focused)?.focus({ preventScroll: true });
}

// Details that opened automatically close again, unless the reader has clicked them.
document.addEventListener("click", (event) => {
  delete event.target.closest("summary")?.parentElement.dataset.auto;
});
