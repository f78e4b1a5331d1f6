// The blocks of the transcript: unfinished text is appended as plain text, finished blocks are fetched
// as rendered by the server.
import { byId, get } from "../core.js";
import { keepFresh } from "../live.js";
import { isSelected, unlessSelected } from "../selection.js";
import { replace } from "../swap.js";
import { tick } from "../times.js";
import { follow, isPinned } from "./scrolling.js";

const page = byId("one");
const number = (block) => Number(block.id.slice(1));
const blockOf = (id) => byId(`e${id}`);
// Deltas of entries that have no block on the page yet, by entry.
const earlyDeltas = new Map();

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
  if (name && entry.tool) name.textContent = entry.tool;
  place(block);
  return block;
}

// The text node that a block's text is appended to.
function textNodeOf(block) {
  const place = block.querySelector("[data-said]");
  if (!place) return null;
  if (place.firstChild?.nodeType !== Node.TEXT_NODE) place.replaceChildren("");
  if (!place.firstChild) place.append(document.createTextNode(""));
  return place.firstChild;
}

export function onEntry(entry) {
  turnChanged(entry.answerId);
  if (entry.final) {
    fetchSoon(entry.id);
  } else if (entry.kind === "tool_result") {
    showRunning(entry);
  } else {
    const block = blockOf(entry.id) || createBlock(entry);
    const textNode = block && textNodeOf(block);
    if (textNode) write(textNode.parentElement, entry.text);
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
  text.replace(CODES, "").replace(/\r\n/g, "\n").replace(/[^\n]*\r(?=[^\n])/g, "");

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
  const block = blockOf(delta.entry);
  const textNode = block && textNodeOf(block);
  if (textNode) {
    textNode.appendData(delta.text);
    follow();
  } else {
    if (!earlyDeltas.has(delta.entry)) fetchSoon(delta.entry);
    earlyDeltas.set(delta.entry, [...(earlyDeltas.get(delta.entry) || []), [rev, delta.text]]);
  }
}

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

// Load the whole transcript again.
export async function reload() {
  const fragment = await get(page.dataset.transcriptUrl);
  byId("transcript").replaceChildren(...fragment.childNodes);
  earlyDeltas.clear();
}

// -- finished blocks, fetched in batches ------------------------------------------------------

const pending = new Set();

async function fetchPending() {
  if (!pending.size) return;
  const ids = [...pending].slice(0, 100);
  const fragment = await get(`${page.dataset.entriesUrl}?ids=${ids.join(",")}`);
  ids.forEach((id) => pending.delete(id));
  [...fragment.children].forEach(showFinal);
  trim();
  tick();
  follow();
  if (pending.size) wake();
}

const wake = keepFresh("blocks", fetchPending, { minInterval: 30, slowdown: 0, interval: 0 });

function fetchSoon(id) {
  pending.add(id);
  wake();
}

// Long transcripts are trimmed on the page; a link loads the earlier part.
const MAX_BLOCKS = 500;
const KEPT_BLOCKS = 300;

function trim() {
  const blocks = byId("blocks");
  if (!isPinned() || isSelected(blocks) || blocks.childElementCount <= MAX_BLOCKS) return;
  while (blocks.childElementCount > KEPT_BLOCKS) blocks.firstElementChild.remove();
  const before = `?before=${number(blocks.firstElementChild)}`;
  const link = byId("earlier") || earlierLink();
  link.href = before;
  link.dataset.url = page.dataset.transcriptUrl + before;
}

function earlierLink() {
  const link = byId("mould-earlier").content.firstElementChild.cloneNode(true);
  byId("transcript").prepend(link);
  return link.firstElementChild;
}

function showFinal(block) {
  const old = byId(block.id);
  if (block.dataset.result) byId(`e${block.dataset.result}`)?.remove();
  if (!old) {
    place(block);
    appendEarlyDeltas(block);
  } else if (Number(block.dataset.rev) >= Number(old.dataset.rev) && !("open" in block.dataset)) {
    replace(old, block);
  }
  lastOfTurn = Math.max(lastOfTurn, number(block), Number(block.dataset.result || 0));
}

// Append deltas that arrived before the block and are not in its text yet.
function appendEarlyDeltas(block) {
  const textNode = earlyDeltas.size && textNodeOf(block);
  const rev = Number(block.dataset.rev);
  for (const [at, text] of earlyDeltas.get(number(block)) || []) {
    if (textNode && at > rev) textNode.appendData(text);
  }
  earlyDeltas.delete(number(block));
}
