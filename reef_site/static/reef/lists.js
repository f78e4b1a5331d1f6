// Lists: choosing rows for an action, and moving with the keyboard.
//
// Chosen rows stay chosen while the list updates, also those that are not on the page any more. Without
// this script the checkboxes are plain fields of the form.
import { BOXES, chooseAll, press } from "./choosing.js";
import { byId } from "./core.js";

const TYPING = "input:not([type=checkbox]), textarea, select, [contenteditable]";
const chosen = new Set();
// The row that was pressed last: a range begins there.
let pressed = "";

const boxes = () => [...document.querySelectorAll(BOXES)];
const rowOf = (element) => element?.closest(".rows.sortable tbody tr");
const form = () => byId("bulk");

// -- choosing --------------------------------------------------------------------------------------

function write(element, text) {
  if (element && element.textContent !== text) element.textContent = text;
}

function paint() {
  const all = byId("bulk-all")?.checked;
  const shown = boxes();
  for (const box of shown) {
    if (box.checked !== chosen.has(box.value)) box.checked = chosen.has(box.value);
  }
  const page = byId("pick-page");
  if (page) {
    page.hidden = false;
    page.checked = shown.length > 0 && shown.every((box) => box.checked);
  }
  const hidden = chosen.size - shown.filter((box) => box.checked).length;
  const text = chosen.size ? `${chosen.size} chosen${hidden ? `, ${hidden} not shown` : ""}` : "Choose rows";
  write(document.querySelector("[data-bulk-count]"), all ? "All are chosen" : text);
  const clear = document.querySelector("[data-bulk-clear]");
  if (clear) clear.hidden = !chosen.size && !all;
}

function choose(box, yes) {
  if (yes) chosen.add(box.value);
  else chosen.delete(box.value);
}

// Do to all shown rows from the one that was pressed last what was done to this one.
function chooseRange(box) {
  const shown = boxes().filter((each) => each === box || each.checkVisibility());
  const from = shown.findIndex((each) => each.value === pressed);
  if (from < 0) return;
  const [first, last] = [from, shown.indexOf(box)].sort((a, b) => a - b);
  for (const each of shown.slice(first, last + 1)) choose(each, box.checked);
}

// The box has changed by now, and its `change` comes next.
document.addEventListener("click", ({ target, shiftKey }) => {
  if (!target.matches(BOXES)) return;
  if (shiftKey) chooseRange(target);
  pressed = target.value;
});

document.addEventListener("change", ({ target }) => {
  if (target.matches(BOXES)) choose(target, target.checked);
  else if (target.id === "pick-page") boxes().forEach((box) => choose(box, target.checked));
  else if (target.id !== "bulk-all") return;
  paint();
});

document.addEventListener("click", ({ target }) => {
  if (!target.closest("[data-bulk-clear]")) return;
  chosen.clear();
  if (byId("bulk-all")) byId("bulk-all").checked = false;
  paint();
});

// Rows that are not on the page are fields, too.
document.addEventListener("submit", ({ target }) => {
  if (target !== form()) return;
  target.querySelectorAll("[data-bulk-id]").forEach((field) => field.remove());
  const shown = new Set(boxes().map((box) => box.value));
  for (const value of chosen) {
    if (shown.has(value)) continue;
    const field = document.createElement("input");
    Object.assign(field, { type: "hidden", name: "id", value });
    field.dataset.bulkId = "";
    target.append(field);
  }
});

// A page from the back/forward cache, or a form that the browser has filled again.
addEventListener("pageshow", () => {
  for (const box of boxes()) choose(box, box.checked);
  paint();
});
// Updates replace rows, and so do folders of the tree that open.
new MutationObserver(paint).observe(byId("main"), { childList: true, subtree: true });
paint();

// -- keys of tables; the tree has its own ------------------------------------------------------------

const links = () => [...document.querySelectorAll(".rows.sortable tbody th a[id]")];

function step(by) {
  const all = links();
  if (!all.length) return document.querySelector('[role=tree] [tabindex="0"]')?.focus();
  const at = all.indexOf(rowOf(document.activeElement)?.querySelector("th a[id]"));
  const next = all[at < 0 ? (by > 0 ? 0 : all.length - 1) : Math.min(all.length - 1, Math.max(0, at + by))];
  next?.focus({ preventScroll: true });
  rowOf(next)?.scrollIntoView({ block: "nearest" });
}

// With Shift, `x` chooses a range, and the others choose the rows that they pass.
const keys = {
  j: (shift) => move(1, shift),
  k: (shift) => move(-1, shift),
  x: (shift) => press(rowOf(document.activeElement), shift),
};

function move(by, choosing) {
  const from = rowOf(document.activeElement);
  step(by);
  if (choosing) chooseAll(from, rowOf(document.activeElement));
}

document.addEventListener("keydown", (event) => {
  const act = keys[event.key?.toLowerCase()];
  if (event.ctrlKey || event.metaKey || event.altKey || !act) return;
  if (event.target.matches(TYPING) || event.target.closest("dialog, [role=tree]")) return;
  event.preventDefault();
  act(event.shiftKey);
});
