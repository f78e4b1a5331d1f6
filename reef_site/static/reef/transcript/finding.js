// Find words in the whole transcript: the server finds the entries, newest first, and the page steps
// through them.
import { byId, get, showProblem, RequestFailed } from "../core.js";
import { tick } from "../times.js";
import { jump } from "./jumps.js";

const field = byId("find");
const results = byId("find-results");
const count = byId("find-count");
const buttons = { older: byId("find-previous"), newer: byId("find-next"), list: byId("find-list") };

// What was found: ids newest first, and below which id the search goes on.
let words = "";
let ids = [];
let before = "";
let at = -1;
let isBusy = false;

function paint() {
  for (const button of Object.values(buttons)) button.hidden = !ids.length;
  buttons.list.ariaExpanded = String(!results.hidden);
  if (!words) count.textContent = "";
  else count.textContent = ids.length ? `${at + 1} of ${ids.length}${before ? "+" : ""}` : "Not found";
}

async function search(more = false) {
  const url = new URL(byId("reading").dataset.findUrl, location.href);
  url.searchParams.set("q", words);
  if (more) url.searchParams.set("before", before);
  const asked = words;
  const found = (await get(url)).querySelector("#found");
  if (words !== asked) return;
  const fresh = found.dataset.ids ? found.dataset.ids.split(",").map(Number) : [];
  before = found.dataset.before || "";
  const isFirst = !more || !ids.length;
  ids = more ? [...ids, ...fresh] : fresh;
  if (isFirst) {
    at = -1;
    results.replaceChildren(found);
    tick();
  }
}

async function step(isOlder) {
  const asked = words;
  // A search that takes long ends early, maybe without any match.
  while (before && words === asked && (isOlder ? at + 1 >= ids.length : !ids.length)) await search(true);
  // The field may be cleared while the server answers.
  if (words !== asked) return;
  if (!ids.length) return paint();
  at = (at + (isOlder ? 1 : -1) + ids.length) % ids.length;
  const block = await jump(ids[at]);
  if (words !== asked) return;
  paint();
  if (block && !mark(block)) count.textContent += ", in a part that is not shown";
  field.focus({ preventScroll: true });
}

async function run(isOlder) {
  if (isBusy) return;
  isBusy = true;
  try {
    const wanted = field.value.trim();
    if (!wanted) return clear();
    if (wanted !== words) {
      words = wanted;
      count.textContent = "Searching…";
      await search();
    }
    showProblem(byId("problem"));
    await step(isOlder);
  } catch (error) {
    if (!(error instanceof RequestFailed)) throw error;
    words = "";
    showProblem(byId("problem"), error.message);
    paint();
  } finally {
    isBusy = false;
  }
}

function clear() {
  [words, ids, before, at] = ["", [], "", -1];
  results.hidden = true;
  CSS.highlights?.delete("found");
  paint();
}

// Highlight the words in a block. Return whether its shown text has them.
function mark(block) {
  const ranges = [];
  const wanted = words.toLowerCase();
  if (!wanted) return false;
  const walker = document.createTreeWalker(block, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const text = walker.currentNode.data.toLowerCase();
    for (let place = text.indexOf(wanted); place >= 0; place = text.indexOf(wanted, place + wanted.length)) {
      const range = new Range();
      range.setStart(walker.currentNode, place);
      range.setEnd(walker.currentNode, Math.min(place + wanted.length, walker.currentNode.length));
      ranges.push(range);
    }
  }
  const details = ranges[0]?.startContainer.parentElement.closest("details");
  if (details) details.open = true;
  if (globalThis.Highlight) CSS.highlights.set("found", new Highlight(...ranges));
  const box = ranges[0]?.getBoundingClientRect();
  if (box && (box.top < 0 || box.bottom > innerHeight - 160))
    ranges[0].startContainer.parentElement.scrollIntoView({ block: "center", behavior: "instant" });
  // Markdown and line breaks may separate words that the text has together.
  return ranges.length > 0 || !block.querySelector(".long");
}

export function initFinding() {
  byId("find-form").addEventListener("submit", (event) => {
    event.preventDefault();
    run(true);
  });
  field.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && event.shiftKey) {
      event.preventDefault();
      run(false);
    } else if (event.key === "Escape") {
      field.value = "";
      clear();
      field.blur();
    }
  });
  field.addEventListener("input", () => field.value || clear());
  buttons.older.addEventListener("click", () => run(true));
  buttons.newer.addEventListener("click", () => run(false));
  buttons.list.addEventListener("click", () => {
    results.hidden = !results.hidden;
    paint();
  });
}
