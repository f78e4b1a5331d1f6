// The blocks of the transcript. Text is appended as plain text as it arrives; about once a second an
// answer is fetched as rendered by the server, and so is each finished block.
import { byId, get } from "../core.js";
import { keepFresh } from "../live.js";
import { unlessSelected } from "../selection.js";
import { morph, replace } from "../swap.js";
import { tick } from "../times.js";
import { joinRest, resetText, textNodeOf } from "./unfinished.js";
import { follow } from "./scrolling.js";
import { isOutside, number, trim, whileLoadingLater } from "./window.js";

const page = byId("one");
const blockOf = (id) => byId(`e${id}`);
// Deltas [revision, text] that no fetched block contains yet, by entry.
const newDeltas = new Map();

function place(block) {
  byId("nothing-said")?.remove();
  const blocks = byId("blocks");
  let after = blocks.lastElementChild;
  while (after && number(after) > number(block)) after = after.previousElementSibling;
  if (after) after.after(block);
  else blocks.prepend(block);
}

function createBlock(entry) {
  const template = byId(`mould-${entry.kind}`);
  if (!template) return null;
  const block = template.content.firstElementChild.cloneNode(true);
  block.id = `e${entry.id}`;
  if (entry.callId) block.dataset.call = entry.callId;
  block.querySelector("details")?.setAttribute("id", `d${entry.id}`);
  const name = block.querySelector(".tool-name");
  if (name && entry.tool) name.textContent = marked(entry.tool);
  place(block);
  return block;
}

// Of a very long text that is being written only the end is shown.
const MAX_TEXT = 20_000;
// Text is appended at once for all pieces that arrived meanwhile: so much of the time is left for the
// reader.
const IDLE_SHARE = 3;

const unwritten = new Map(); // Block → text.
let writing = 0;

function append(block, text) {
  unwritten.set(block, (unwritten.get(block) ?? "") + text);
  writing ||= setTimeout(writeAll);
}

function writeAll() {
  const began = performance.now();
  for (const [block, text] of unwritten) if (block.isConnected) extend(block, text);
  unwritten.clear();
  follow();
  // Reading a position lays the page out, which takes the most time.
  byId("foot").getBoundingClientRect();
  const pause = (performance.now() - began) * IDLE_SHARE;
  writing = -1;
  setTimeout(() => {
    writing = unwritten.size ? setTimeout(writeAll) : 0;
  }, pause);
}

function extend(block, text) {
  const textNode = textNodeOf(block);
  if (!textNode) return;
  const excess = textNode.length + text.length - MAX_TEXT;
  if (excess <= MAX_TEXT) return void textNode.appendData(text);
  const leftOut = Number(block.dataset.leftOut || 0) + excess;
  textNode.data = (textNode.data + text).slice(excess);
  block.dataset.leftOut = leftOut;
  const note = block.querySelector(".left-out") ?? document.createElement("p");
  note.className = "fine left-out";
  note.textContent = `… ${leftOut.toLocaleString("en-US")} characters left out until it is finished`;
  textNode.parentElement.before(note);
}

export function onEntry(entry, rev) {
  turnChanged(entry.answerId);
  if (!callOf(entry) && isMissed(onEntry, entry.id, entry, rev)) return;
  if (entry.final) {
    fetchSoon(entry.id);
  } else if (entry.kind === "tool_result") {
    showRunning(entry);
  } else {
    if (isContained(entry.id, rev)) return;
    const block = blockOf(entry.id) || createBlock(entry);
    unwritten.delete(block);
    newDeltas.delete(entry.id);
    const place = block && resetText(block);
    if (place) write(place, marked(entry.text.slice(-2 * MAX_TEXT)));
    if (block && entry.text) formatSoon(block);
  }
  follow();
}

function showRunning(entry) {
  const block = callOf(entry) || blockOf(entry.id) || createBlock(entry);
  if (!block) return;
  const output = block.querySelector("[data-output]");
  output.hidden = false;
  unlessSelected(output, () => output.isConnected && write(output, plain(entry.text)));
  const details = block.querySelector("details");
  details.className = "tool is-running";
  if (!details.open) {
    details.open = true;
    details.dataset.auto = "";
  }
  block.querySelector(".tool-state").textContent = "running";
}

// Strip terminal codes; `terminal.py` does the same for finished blocks.
const CODES = /\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)/g;
const plain = (text) =>
  marked(text.replace(CODES, "").replace(/\r\n/g, "\n").replace(/[^\n]*\r(?=[^\n])/g, ""));
// Show what would reorder the text behind it.
const marked = (text) =>
  text.replace(/[\u202a-\u202e\u2066-\u2069]/g, (mark) => `[U+${mark.codePointAt(0).toString(16).toUpperCase()}]`);

// Append if possible, which keeps the selection.
function write(output, text) {
  const node = output.firstChild;
  if (node?.nodeType === Node.TEXT_NODE && output.childNodes.length === 1 && text.startsWith(node.data))
    node.appendData(text.slice(node.data.length));
  else output.textContent = text;
}

function callOf(entry) {
  if (!entry.callId) return null;
  const found = document.querySelectorAll(`[data-call="${CSS.escape(entry.callId)}"]`);
  return found[found.length - 1] || null;
}

export function onDelta(delta, rev) {
  if (isMissed(onDelta, delta.entry, delta, rev) || isContained(delta.entry, rev)) return;
  const block = blockOf(delta.entry);
  const isShown = block && textNodeOf(block);
  if (isShown) append(block, marked(delta.text));
  if (isShown && !isFormatted(block)) return;
  if (!newDeltas.has(delta.entry)) newDeltas.set(delta.entry, []);
  newDeltas.get(delta.entry).push([rev, delta.text]);
  if (isShown) formatSoon(block);
  else fetchSoon(delta.entry);
}

// Whether the block as it was fetched has this change already: the stream may be behind it.
const isContained = (id, rev) => rev <= Number(blockOf(id)?.dataset.rev ?? 0);

// The last block of a turn carries its footer, which exists only when the turn has ended.
let turn = null;
let lastOfTurn = 0;

function turnChanged(id) {
  if (turn !== null && id !== turn) fetchLastBlock();
  turn = id ?? null;
}

function fetchLastBlock() {
  if (lastOfTurn) fetchSoon(lastOfTurn);
  lastOfTurn = 0;
}

export function turnEnded() {
  fetchLastBlock();
  turn = null;
}

// What is about blocks that are not on the page is left out; while the newest ones are being loaded,
// it is kept until they are there.
let missed = null;

whileLoadingLater(
  () => (missed = []),
  (rev) => {
    const since = rev === null ? [] : missed.filter((change) => change.rev > rev);
    missed = null;
    for (const { handle, data, rev: at } of since) handle(data, at);
  },
);

function isMissed(handle, id, data, rev) {
  if (blockOf(id) || !isOutside(id)) return false;
  missed?.push({ handle, data, rev });
  return true;
}

// The page's part was replaced.
export function forget() {
  // The stream begins anew, at the revision of the part.
  unwritten.clear();
  newDeltas.clear();
  pending.clear();
  unformatted.clear();
  document.querySelectorAll(".block[data-open]").forEach(joinRest);
  turn = null;
  lastOfTurn = 0;
}

// -- blocks as rendered by the server, fetched in batches -------------------------------------

const pending = new Set();
const unformatted = new Set();

async function fetchBlocks(wanted) {
  if (!wanted.size) return;
  const ids = [...wanted].slice(0, 100);
  // What changes from now on is wanted again.
  ids.forEach((id) => wanted.delete(id));
  const fragment = await get(`${page.dataset.entriesUrl}?ids=${ids.join(",")}`).catch((error) => {
    ids.forEach((id) => wanted.add(id));
    throw error;
  });
  [...fragment.children].forEach(show);
  trim();
  tick();
  follow();
}

async function fetchPending() {
  await fetchBlocks(pending);
  if (pending.size) wake();
}

const wake = keepFresh("blocks", fetchPending, { minInterval: 30, slowdown: 0, interval: 0 });
const wakeFormat = keepFresh("answer", () => fetchBlocks(unformatted), { interval: 0 });

function fetchSoon(id) {
  pending.add(id);
  wake();
}

const isFormatted = (block) => block.querySelector("[data-formatted]") !== null;

function formatSoon(block) {
  if (!isFormatted(block)) return;
  unformatted.add(number(block));
  wakeFormat();
}

function show(block) {
  const old = byId(block.id);
  if (block.dataset.result) byId(`e${block.dataset.result}`)?.remove();
  if (!old) {
    if (isOutside(number(block))) return;
    addNewDeltas(block);
    place(block);
  } else if (Number(block.dataset.rev) >= Number(old.dataset.rev)) {
    if ("open" in block.dataset) showUnfinished(old, block);
    else showFinal(old, block);
  }
  lastOfTurn = Math.max(lastOfTurn, number(block), Number(block.dataset.result || 0));
}

function showFinal(old, block) {
  unwritten.delete(old);
  newDeltas.delete(number(block));
  unformatted.delete(number(block));
  // While text is selected, an older block must not take the place of this one.
  old.dataset.rev = block.dataset.rev;
  replace(old, block);
}

function showUnfinished(old, block) {
  // A text that has become too long to be formatted gets plain once.
  if (!isFormatted(block) && !isFormatted(old)) return;
  unlessSelected(old, () => {
    if (!old.isConnected || !("open" in old.dataset)) return;
    unwritten.delete(old);
    addNewDeltas(block);
    morph(old, block);
    if (newDeltas.has(number(block))) formatSoon(block);
  });
}

// Append the deltas that are not in the block's text yet, and forget the others.
function addNewDeltas(block) {
  const id = number(block);
  const rev = Number(block.dataset.rev);
  const later = (newDeltas.get(id) || []).filter(([at]) => at > rev);
  const textNode = "open" in block.dataset && textNodeOf(block);
  if (textNode) textNode.appendData(marked(later.map(([, text]) => text).join("")));
  joinRest(block);
  if (later.length && isFormatted(block)) newDeltas.set(id, later);
  else newDeltas.delete(id);
}

document.querySelectorAll(".block[data-open]").forEach(joinRest);
