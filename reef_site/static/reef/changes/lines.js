// Lines of a diff: moving with the keyboard, the box for a comment, and comments below their lines.
import { byId } from "../core.js";
import * as store from "./store.js";

const comments = byId("comments");
const fresh = (id) => byId(id).content.firstElementChild.cloneNode(true);

function placeOf(row) {
  const { side, line } = row.dataset;
  // By characters, never through the middle of one.
  const quote = [...row.querySelector(".code").textContent].slice(0, 500).join("");
  const { path } = row.closest("table").dataset;
  return { repository: comments.dataset.repository, path, side, line: Number(line), quote };
}

// -- keyboard --------------------------------------------------------------------------------------

const buttons = (table) => [...table.querySelectorAll(".line")];

function makeCurrent(button) {
  for (const each of buttons(button.closest("table"))) each.tabIndex = each === button ? 0 : -1;
}

const STEPS = { ArrowDown: 1, ArrowUp: -1, PageDown: 20, PageUp: -20, Home: -Infinity, End: Infinity };

document.addEventListener("keydown", (event) => {
  const button = event.target.closest?.(".line");
  const step = STEPS[event.key];
  if (!button || !step || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  const all = buttons(button.closest("table"));
  const next = all[Math.min(all.length - 1, Math.max(0, all.indexOf(button) + step))];
  makeCurrent(next);
  next.focus();
});

// -- the box ---------------------------------------------------------------------------------------

function close(box) {
  const button = box.previousElementSibling?.querySelector(".line");
  box.remove();
  button?.focus();
}

function open(row, text = "") {
  const known = row.nextElementSibling;
  if (known?.querySelector("textarea")) return known.querySelector("textarea").focus();
  document.querySelectorAll(".box form").forEach((form) => form.closest(".box").remove());
  if (row.nextElementSibling?.matches(".box")) row.nextElementSibling.remove();
  const place = placeOf(row);
  const box = fresh("mould-box");
  const field = box.querySelector("textarea");
  box.querySelector("label .away").textContent = `Comment on line ${place.line} of ${place.path}`;
  field.value = text || store.at(place)?.text || "";
  row.after(box);
  field.focus();
  field.addEventListener("input", () => store.keepDraft(place, field.value));
  field.addEventListener("keydown", (event) => {
    if (event.key === "Escape") box.querySelector("[data-cancel]").click();
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) box.querySelector("form").requestSubmit();
  });
  box.querySelector("[data-cancel]").addEventListener("click", () => {
    store.dropDraft();
    close(box);
    showIn(row.closest("table"));
  });
  box.querySelector("form").addEventListener("submit", (event) => {
    event.preventDefault();
    if (!field.value.trim()) return;
    close(box);
    store.put(place, field.value);
  });
}

document.addEventListener("click", (event) => {
  const button = event.target.closest(".line");
  if (!button || !comments) return;
  makeCurrent(button);
  open(button.closest("tr"));
});

// -- comments below their lines ----------------------------------------------------------------------

function showIn(table) {
  table.querySelectorAll(".box:not(:has(form))").forEach((box) => box.remove());
  for (const row of table.querySelectorAll("tr[data-side]")) {
    const place = placeOf(row);
    const known = store.at(place);
    if (!known || known.quote !== place.quote || row.nextElementSibling?.matches(".box")) continue;
    const note = fresh("mould-note");
    note.querySelector(".said").textContent = known.text;
    note.querySelector("button").addEventListener("click", () => open(row));
    row.after(note);
  }
}

// Prepare a diff that was loaded: comments that are kept, and one that was being written.
export function prepare(table) {
  if (!comments) return;
  const first = table.querySelector(".line");
  if (first) first.tabIndex = 0;
  showIn(table);
  const draft = store.draft();
  if (!draft || draft.path !== table.dataset.path || draft.repository !== comments.dataset.repository) return;
  const row = table.querySelector(`tr[data-side="${draft.side}"][data-line="${draft.line}"]`);
  if (row && placeOf(row).quote === draft.quote) open(row, draft.text);
}

export const isWriting = (area) => Boolean(area.querySelector(".box form"));

store.onChange(() => document.querySelectorAll(".diff").forEach(showIn));
