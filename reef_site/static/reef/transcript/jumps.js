// Jumps to an entry: by links, by the list of messages, and by the keys j and k.
import { byId, get, showFailure } from "../core.js";
import { tick } from "../times.js";
import { hasNewest, pin } from "./scrolling.js";

const page = byId("one");
const problem = byId("problem");
let showPart = async () => {};

const GAP = 12;

// The block that shows an entry: its own, or that of the call whose result it is.
const blockOf = (id) => byId(`e${id}`) ?? document.querySelector(`[data-result="${id}"]`);

function reveal(block) {
  pin(false);
  document.querySelector(".is-target")?.classList.remove("is-target");
  block.classList.add("is-target");
  block.tabIndex = -1;
  block.focus({ preventScroll: true });
  // The heading stays at the top of the screen.
  const top = block.getBoundingClientRect().top - byId("head").offsetHeight - GAP;
  scrollBy({ top, behavior: "instant" });
}

// Show an entry, and return its block; null if there is none.
export async function jump(id) {
  if (!blockOf(id)) await showPart(id);
  const block = blockOf(id);
  if (block) reveal(block);
  return block;
}

async function follow(id) {
  try {
    if (!(await jump(id))) return;
    history.replaceState(history.state, "", `?at=${id}#e${id}`);
  } catch (error) {
    showFailure(problem, error);
  }
}

document.addEventListener("click", (event) => {
  const link = event.target.closest('#one a[href^="?at="]');
  if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  link.closest("#jump")?.removeAttribute("open");
  follow(Number(new URLSearchParams(link.search).get("at")));
});

// -- the list of messages --------------------------------------------------------------------------

const list = byId("jump-list");

async function loadList(url, link = null) {
  try {
    const fragment = await get(url);
    link?.closest("p").remove();
    if (!link) list.replaceChildren();
    list.append(fragment);
    tick();
  } catch (error) {
    showFailure(problem, error);
  }
}

byId("jump").addEventListener("toggle", (event) => {
  if (event.target.open) loadList(event.target.dataset.url);
});
list.addEventListener("click", (event) => {
  const button = event.target.closest("button[data-url]");
  if (button) loadList(button.dataset.url, button);
});
document.addEventListener("click", (event) => {
  if (!event.target.closest("#jump")) byId("jump").open = false;
});
byId("jump").addEventListener("keydown", (event) => {
  if (event.key !== "Escape") return;
  byId("jump").open = false;
  byId("jump").querySelector("summary").focus();
});

// -- keys ------------------------------------------------------------------------------------------

// The message after or before the one that has the focus, or that is at the top of the screen.
function neighbour(isDown) {
  const messages = [...document.querySelectorAll("#blocks > .is-user")];
  const focused = messages.indexOf(document.activeElement);
  const box = focused >= 0 && document.activeElement.getBoundingClientRect();
  if (box && box.bottom > 0 && box.top < innerHeight) return messages[focused + (isDown ? 1 : -1)];
  const line = byId("head").offsetHeight + GAP;
  const isBelow = (block) => block.getBoundingClientRect().top > line + GAP;
  const isAbove = (block) => block.getBoundingClientRect().top < line - GAP;
  return isDown ? messages.find(isBelow) : messages.findLast(isAbove);
}

function step(isDown) {
  const message = neighbour(isDown);
  if (message) return reveal(message);
  if (isDown && hasNewest()) return byId("newest").click();
  byId(isDown ? "later" : "earlier")?.click();
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || !"jk".includes(event.key)) return;
  if (event.target.closest("input, textarea, select, dialog, [contenteditable]")) return;
  event.preventDefault();
  step(event.key === "j");
});

// `act` shows the part of the transcript around an entry.
export function initJumps(act) {
  showPart = act;
  const { at } = page.dataset;
  const block = at && blockOf(at);
  if (block) addEventListener("load", () => reveal(block));
}
