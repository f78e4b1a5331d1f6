// The part of a long transcript that is on the page: older and newer blocks are loaded when the reader
// scrolls to them, and blocks far away are removed, so that the page stays small.
import { byId, get, showFailure } from "../core.js";
import { isSelected } from "../selection.js";
import { tick } from "../times.js";
import { hasNewest, isPinned, pin } from "./scrolling.js";

const MAX_BLOCKS = 500;
const KEPT_BLOCKS = 300;
// Blocks are loaded when their link is so many pixels from the screen.
const NEAR = 600;

const page = byId("one");
const blocks = () => byId("blocks");
export const number = (block) => Number(block.id.slice(1));

// Whether an entry belongs outside of the part that is on the page. A call's result may be newer than
// entries outside.
export function isOutside(id) {
  const { firstElementChild: first, lastElementChild: last } = blocks();
  if (!first) return false;
  return (!hasNewest() && id > number(last)) || (Boolean(byId("earlier")) && id < number(first));
}

// Run `change`; what the reader sees stays where it is.
function keepPlace(change) {
  const seen = [...blocks().children].find((block) => block.getBoundingClientRect().bottom > 0);
  const top = seen?.getBoundingClientRect().top;
  change();
  if (!seen?.isConnected || isPinned()) return;
  scrollBy({ top: seen.getBoundingClientRect().top - top, behavior: "instant" });
}

function setLink(name, url) {
  let link = byId(name);
  if (!link) {
    const fresh = byId(`mould-${name}`).content.firstElementChild.cloneNode(true);
    if (name === "earlier") byId("transcript").prepend(fresh);
    else blocks().after(fresh);
    link = fresh.firstElementChild;
  }
  link.href = url;
  link.dataset.url = page.dataset.transcriptUrl + url;
}

// Remove blocks at the end that is farther from the reader.
export function trim() {
  const list = blocks();
  const excess = list.childElementCount - KEPT_BLOCKS;
  if (list.childElementCount <= MAX_BLOCKS || isSelected(list)) return;
  const middle = list.children[list.childElementCount >> 1];
  const isAbove = isPinned() || middle.getBoundingClientRect().top < innerHeight / 2;
  keepPlace(() => {
    for (let left = excess; left; left -= 1) (isAbove ? list.firstElementChild : list.lastElementChild).remove();
    if (isAbove) setLink("earlier", `?before=${number(list.firstElementChild)}`);
    else setLink("later", `?after=${number(list.lastElementChild)}`);
  });
}

// -- loading -----------------------------------------------------------------------------------------

let loading = false;
// `begin` is called before newer blocks are requested, `end` with the revision that they have when
// they are on the page, or without if there are still newer ones.
let listeners = { begin: () => {}, end: () => {} };
export const whileLoadingLater = (begin, end) => (listeners = { begin, end });

async function load(link) {
  if (loading) return;
  loading = true;
  link.setAttribute("aria-busy", "true");
  const isLater = link.id === "later";
  if (isLater) listeners.begin();
  try {
    const fragment = await get(link.dataset.url);
    if (link.isConnected) show(fragment, link, isLater);
  } catch (error) {
    showFailure(byId("problem"), error);
  } finally {
    link.removeAttribute("aria-busy");
    loading = false;
  }
}

function show(fragment, link, isLater) {
  const fresh = fragment.querySelector("#blocks");
  const more = fragment.querySelector(`#${link.id}`);
  if (!isLater) pin(false);
  keepPlace(() => {
    const added = [...fresh.children].filter((block) => !byId(block.id));
    if (isLater) blocks().append(...added);
    else blocks().prepend(...added);
    if (more) link.closest("p").replaceWith(more.closest("p"));
    else link.closest("p").remove();
  });
  if (isLater) listeners.end(more ? null : Number(fresh.dataset.rev));
  trim();
  tick();
}

// Load what the reader is about to reach. Called when the reader scrolls.
function loadNear() {
  if (isPinned()) return;
  const earlier = byId("earlier");
  const later = byId("later");
  if (earlier && earlier.getBoundingClientRect().bottom > -NEAR) load(earlier);
  else if (later && later.getBoundingClientRect().top < innerHeight + NEAR) load(later);
}

addEventListener("scroll", loadNear, { passive: true });

byId("transcript").addEventListener("click", (event) => {
  const link = event.target.closest("#earlier, #later");
  if (!link || event.ctrlKey || event.metaKey) return;
  event.preventDefault();
  load(link);
});

// Replace the page's part: with the blocks around this entry, or with the newest ones.
export async function showWindow(id = null) {
  const fragment = await get(page.dataset.transcriptUrl + (id === null ? "" : `?at=${id}`));
  byId("transcript").replaceChildren(...fragment.childNodes);
  tick();
}

// The entry that the reader sees first; null at the newest ones.
export function place() {
  if (hasNewest()) return null;
  const seen = [...blocks().children].find((block) => block.getBoundingClientRect().bottom > 0);
  return seen ? number(seen) : null;
}
