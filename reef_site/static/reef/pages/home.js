// The home page: keys for the rows that need somebody.
import { byId, isTyping, RequestFailed, showProblem } from "../core.js";
import { takePageCount } from "../count.js";
import { postForm } from "../forms.js";

const ROWS = "[data-need]";
const ACTIONS = "button, a.button, summary";
const MAX_KEYS = 9;

const rows = () => [...document.querySelectorAll(ROWS)];
const rowOf = (element) => element?.closest(ROWS);
// What the keys 1 to 9 press: the row's visible actions, in their order.
const actionsOf = (row) =>
  [...row.querySelectorAll(ACTIONS)].filter((each) => each.checkVisibility()).slice(0, MAX_KEYS);

// The row that the keys are about, and its place, in case an update removes it.
let current = "";
let place = 0;

function number(row) {
  for (const each of document.querySelectorAll("[data-n]")) delete each.dataset.n;
  if (row) actionsOf(row).forEach((each, index) => (each.dataset.n = index + 1));
}

function select(row) {
  current = row?.id || "";
  place = Math.max(0, rows().indexOf(row));
  number(row);
}

function go(row) {
  if (!row) return;
  row.focus({ preventScroll: true });
  row.scrollIntoView({ block: "nearest" });
}

function step(by) {
  const all = rows();
  const at = all.findIndex((each) => each.id === current);
  go(all[at < 0 ? (by > 0 ? 0 : all.length - 1) : Math.min(all.length - 1, Math.max(0, at + by))]);
}

function open(row) {
  const field = row.querySelector("input[type=text], textarea");
  const target = field?.checkVisibility() ? field : row.querySelector("summary, .need-name, a");
  if (target === field && field) field.focus();
  else target?.click();
}

const press = (row, selector) => row.querySelector(selector)?.click();

const keys = {
  j: () => step(1),
  k: () => step(-1),
  s: (row) => press(row, ":scope > .acts [data-seen]"),
  z: (row) => press(row, "[data-snooze]"),
};

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const row = byId(current);
  if (event.key === "Escape" && rowOf(event.target) && isTyping(event)) return void rowOf(event.target).focus();
  if (isTyping(event)) return;
  const isOnRow = event.target.matches(ROWS);
  if (event.key === "j" || event.key === "k" || (row && keys[event.key])) {
    event.preventDefault();
    keys[event.key](row);
  } else if (row && event.key === "Enter" && isOnRow) {
    event.preventDefault();
    open(row);
  } else if (row && /^[1-9]$/.test(event.key)) {
    event.preventDefault();
    actionsOf(row)[Number(event.key) - 1]?.click();
  }
});

document.addEventListener("focusin", (event) => {
  const row = rowOf(event.target);
  if (row) select(row);
});
// A menu that opens has actions of its own.
document.addEventListener("toggle", (event) => rowOf(event.target)?.id === current && number(byId(current)), true);

// -- one action for all rows of a group ------------------------------------------------------------

// The rows are the plan: the reader sees what will be done, to whom, before the press.
async function pressAll(button) {
  const buttons = [...document.querySelectorAll(`#needs button[data-label="${CSS.escape(button.dataset.all)}"]`)];
  const failures = [];
  button.disabled = true;
  for (const [index, each] of buttons.entries()) {
    button.textContent = `${index + 1} of ${buttons.length}…`;
    try {
      await postForm(each.form, each);
    } catch (error) {
      if (!(error instanceof RequestFailed)) throw error;
      failures.push(error.message);
    }
  }
  const failed = failures.length ? `${failures.length} of ${buttons.length} failed: ${failures[0]}` : "";
  showProblem(byId("problem"), failed);
  byId("parts").dispatchEvent(new Event("reef:changed"));
}

function showAllButtons() {
  for (const button of document.querySelectorAll("[data-all]")) button.hidden = button.disabled;
}

document.addEventListener("click", (event) => {
  const button = event.target.closest("[data-all]");
  if (button) pressAll(button);
});

// The row goes with the next update, and is of no use until then.
document.addEventListener("reef:sent", ({ target }) => {
  const row = rowOf(target);
  if (!row) return;
  row.inert = true;
  row.classList.add("is-sent");
});

// -- after updates ---------------------------------------------------------------------------------

document.addEventListener("htmx:afterSwap", () => {
  takePageCount();
  showAllButtons();
  const row = byId(current);
  if (row) return number(row);
  if (!current) return;
  // The row is gone: its successor gets the focus, unless the reader has left.
  const next = rows()[Math.min(place, rows().length - 1)];
  if (document.activeElement === document.body && next) go(next);
  else select(null);
});
showAllButtons();
