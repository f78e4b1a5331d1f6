// Rows of the live tree: their order, and opening and closing them.
//
// Rows are flat siblings with their level in aria-level, so that a chain of thousands is not a deep
// document. A row's element stays as long as its VM is shown; only its content changes. Rows with a
// data-key are nodes, or the root row ("0"), or the group of unplaced VMs.
import { byId } from "../core.js";
import { tick } from "../times.js";
import { get, showFailure, urls } from "./common.js";
import { change, isOwnPage, query } from "./state.js";

export const tree = () => byId("tree");
export const level = (row) => Number(row.getAttribute("aria-level"));
export const isOpen = (row) => row.getAttribute("aria-expanded") === "true";
export const isFolder = (row) => row.hasAttribute("aria-expanded");
export const isRootRow = (row) => row.dataset.key === "0";
export const isNode = (row) => /^[0-9]+$/.test(row.dataset.key || "");
export const isMore = (row) => row.classList.contains("more");
export const isFiltered = () => "filtered" in tree().dataset;
export const rowOf = (key) => byId(`n${key}`);

export function next(row) {
  let other = row.nextElementSibling;
  while (other && other.hidden) other = other.nextElementSibling;
  return other;
}

export function previous(row) {
  let other = row.previousElementSibling;
  while (other && other.hidden) other = other.previousElementSibling;
  return other;
}

export function last() {
  const row = tree().lastElementChild;
  return row && row.hidden ? previous(row) : row;
}

// All descendants of this row on the page, visible or not.
export function descendants(row) {
  const found = [];
  for (let each = row.nextElementSibling; each && level(each) > level(row); each = each.nextElementSibling)
    found.push(each);
  return found;
}

export const childrenOf = (row) => descendants(row).filter((each) => level(each) === level(row) + 1);

export function parentOf(row) {
  let other = row.previousElementSibling;
  while (other && level(other) >= level(row)) other = other.previousElementSibling;
  return other;
}

export function focus(row) {
  if (!row) return;
  for (const each of tree().querySelectorAll('[tabindex="0"]')) each.tabIndex = -1;
  row.tabIndex = 0;
  row.focus();
  row.scrollIntoView({ block: "nearest" });
}

// Hide or show descendants; rows that are open inside stay open.
export function paint(row) {
  let shut = isOpen(row) ? Infinity : level(row);
  for (const each of descendants(row)) {
    each.hidden = level(each) > shut;
    if (each.hidden) continue;
    shut = isFolder(each) && !isOpen(each) ? level(each) : Infinity;
  }
}

// What children are fetched with: the time of an earlier tree, and the order of siblings.
function params(more) {
  const sort = isOwnPage() && query().get("sort");
  return new URLSearchParams({ ...(urls.at && { at: urls.at }), ...(sort && { sort }), ...more });
}
export const childrenUrl = (key, more) => `${urls.childrenUrl}${key}?${params(more)}`;

// The URL remembers which nodes are open. Search results open by themselves.
function remember() {
  if (isFiltered() || urls.at) return;
  const open = [...tree().children].filter((row) => isNode(row) && !isRootRow(row) && isOpen(row));
  change({ open: open.slice(0, 60).map((row) => row.dataset.key).join(".") });
}

export async function open(row) {
  if (!isFolder(row) || isOpen(row)) return;
  row.setAttribute("aria-expanded", "true");
  if (row.dataset.loaded || childrenOf(row).length) {
    paint(row);
    return remember();
  }
  row.setAttribute("aria-busy", "true");
  try {
    const fragment = await get(childrenUrl(row.dataset.key, { level: level(row) + 1 }));
    if (!childrenOf(row).length) row.after(...fragment.children);
    row.dataset.loaded = "1";
    paint(row);
    remember();
    tick();
  } catch (error) {
    row.setAttribute("aria-expanded", "false");
    showFailure(error);
  }
  row.removeAttribute("aria-busy");
}

export function close(row) {
  if (!isOpen(row) || isRootRow(row)) return;
  const inside = descendants(row).includes(document.activeElement);
  row.setAttribute("aria-expanded", "false");
  // Children that a search left out are fetched when the row is opened again.
  if (isFiltered() && !row.dataset.loaded) descendants(row).forEach((each) => each.remove());
  paint(row);
  remember();
  if (inside) focus(row);
}

export async function more(row) {
  if (row.getAttribute("aria-busy")) return;
  row.setAttribute("aria-busy", "true");
  const { parent, after, place } = row.dataset;
  try {
    const fragment = await get(childrenUrl(parent, { after, place, level: level(row) }));
    const fresh = [...fragment.children].filter((each) => isMore(each) || !byId(each.id));
    const had = document.activeElement === row;
    row.replaceWith(...fresh);
    if (had && fresh.length) focus(fresh[0]);
    tick();
  } catch (error) {
    row.removeAttribute("aria-busy");
    showFailure(error);
  }
}
