// Updates of the live tree. The server reports which VMs changed, and the page fetches the visible
// rows among them.
import { byId } from "../core.js";
import { keepFresh, onEvents } from "../live.js";
import { isSelected, unlessSelected, unselected } from "../selection.js";
import { morphChildren } from "../swap.js";
import { tick } from "../times.js";
import { block, get, post, urls } from "./common.js";
import * as panel from "./side_panel.js";
import {
  descendants, childrenOf, childrenUrl, focus, isFiltered, isFolder, isMore, isNode, isOpen, isRootRow, level, paint,
  parentOf, previous, rowOf, tree,
} from "./rows.js";
import { refill } from "./search.js";

const MAX_CHANGED = 200;
const INTERVAL = 20000;

// Ids of changed VMs; null means "many". Rows store the number of the last update applied to them.
let changed = new Set();
let lastUpdate = 0;
let isExplored = false; // Whether the reader opened something in a search result.

function onChanged(ids) {
  lastUpdate += 1;
  if (ids && changed) ids.forEach((id) => changed.add(id));
  if (!ids || (changed && changed.size > MAX_CHANGED)) changed = null;
  wake();
}

async function refresh() {
  if (!tree()) return;
  const ids = changed;
  changed = new Set();
  try {
    if (!isFiltered() || isExplored) await refreshRows(ids);
    else await unselected(tree()).then(refill);
    await panel.refresh(ids);
  } catch (error) {
    changed = null;
    throw error;
  }
  scheduleRootRow();
}

// At most four times a second, less often if the server is slow; the last change is never missed.
const wake = keepFresh("tree", refresh, { minInterval: 250, slowdown: 4, interval: 0 });

// The root row counts the whole fleet. For large fleets the server caches the counts and says when to
// fetch them again.
let rootRowTimer = 0;

function scheduleRootRow() {
  const again = Number(tree() && rowOf(0)?.dataset.again);
  clearTimeout(rootRowTimer);
  if (again) rootRowTimer = setTimeout(() => onChanged([]), again);
}

// Rows of nodes that are visible, or nearly.
function visibleRows() {
  const found = [];
  for (const row of tree().children) {
    if (row.hidden || !isNode(row)) continue;
    const { top, bottom } = row.getBoundingClientRect();
    if (bottom > -200 && top < innerHeight + 200) found.push(row);
  }
  return found.slice(0, 300);
}

// Ancestors of the first visible row; all other ancestors of visible rows are visible themselves.
function ancestorsOf(row) {
  const found = [];
  for (let each = row && parentOf(row); each && found.length < 150; each = parentOf(each))
    if (isNode(each)) found.push(each);
  return found;
}

async function refreshRows(ids) {
  const rows = visibleRows();
  const rootRow = rowOf(0);
  const keys = [...rows, ...ancestorsOf(rows[0])].map((row) => Number(row.dataset.key));
  const keysToFetch = [...new Set([...keys, 0])];
  const mark = lastUpdate;
  const fragment = await post(urls.newsUrl, {
    shown: keysToFetch,
    also: [0, ...ancestorKeys(ids)],
    changed: [...(ids || [])],
    many: !ids,
  });
  const reshaped = new Set();
  for (const fresh of fragment.children) {
    if (fresh.dataset.gone) remove(rowOf(fresh.dataset.gone));
    else if (swap(rowOf(fresh.dataset.key), fresh)) reshaped.add(rowOf(fresh.dataset.key));
  }
  for (const row of rows) row.dataset.news = mark;
  if (!tree().querySelector('[tabindex="0"]')) rootRow.tabIndex = 0;
  tick();
  changedGroups(ids).forEach((row) => reshaped.add(row));
  for (const row of reshaped) await updateChildren(row);
}

// Open groups of unplaced VMs, which are not fetched one by one.
function changedGroups(ids) {
  const groups = [...tree().querySelectorAll('.group[aria-expanded="true"]')];
  return groups.filter((row) => !ids || childrenOf(row).some((each) => ids.has(each.dataset.vm)));
}

// Current ancestors of shown VMs that changed: they change, too, if the VM moves away.
function ancestorKeys(ids) {
  const found = new Set();
  for (const row of tree().children) {
    if (!ids?.has(row.dataset.vm)) continue;
    for (let each = parentOf(row); each; each = parentOf(each)) if (isNode(each)) found.add(Number(each.dataset.key));
  }
  return [...found].slice(0, 200);
}

// Update the content of a row; returns whether its set of children differs.
function swap(row, fresh) {
  if (!row) return false;
  if (isSelected(row)) {
    unlessSelected(row, () => onChanged(null));
    return false;
  }
  const differs = row.dataset.shape !== fresh.dataset.shape;
  for (const name of ["shape", "again"]) if (name in fresh.dataset) row.dataset[name] = fresh.dataset[name];
  if (row.innerHTML !== fresh.innerHTML) morphChildren(row, fresh);
  if (!isFolder(fresh)) row.removeAttribute("aria-expanded");
  else if (!isFolder(row)) row.setAttribute("aria-expanded", isRootRow(row) ? "true" : "false");
  return differs;
}

function remove(row) {
  if (!row) return;
  const rows = [row, ...descendants(row)];
  const had = rows.find((each) => each.contains(document.activeElement));
  const other = had && (previous(row) || rowOf(0));
  rows.forEach((each) => each.remove());
  if (had) focus(other);
}

// Update the children of an open row; children that stay keep their elements.
async function updateChildren(row) {
  if (!row.isConnected || isFiltered() || (isRootRow(row) && "top" in tree().dataset)) return;
  const old = childrenOf(row);
  if (!isOpen(row)) {
    descendants(row).forEach((each) => each.remove());
    delete row.dataset.loaded;
    return;
  }
  const limit = Math.max(50, old.filter((each) => !isMore(each)).length);
  const fragment = await get(childrenUrl(row.dataset.key, { limit, level: level(row) + 1 }));
  const fresh = [...fragment.children];
  const kept = new Set(fresh.map((each) => each.id));
  old.filter((each) => !kept.has(each.id)).forEach(remove);
  let before = row;
  const reshaped = new Set();
  for (const each of fresh) before = placeChild(each, before, row, reshaped);
  paint(row);
  tick();
  for (const each of reshaped) await updateChildren(each);
}

// Place a child after `before`; returns the last row of its subtree. A child whose own children differ
// is added to `reshaped`.
function placeChild(fresh, before, parent, reshaped) {
  let mine = byId(fresh.id);
  if (mine && (isMore(mine) || parentOf(mine) !== parent)) {
    remove(mine);
    mine = null;
  }
  if (mine) {
    for (const name of ["aria-setsize", "aria-posinset"]) mine.setAttribute(name, fresh.getAttribute(name));
    if (swap(mine, fresh)) reshaped.add(mine);
  } else {
    mine = fresh;
  }
  const inside = mine.isConnected ? descendants(mine) : [];
  if (mine.previousElementSibling !== before) before.after(mine, ...inside);
  return inside.at(-1) || mine;
}

// -- triggers ---------------------------------------------------------------------------------

// Rows that scroll into view fetch the updates that they missed.
let settling = 0;
addEventListener("scroll", () => {
  clearTimeout(settling);
  settling = setTimeout(() => {
    if (!tree() || !visibleRows().some((row) => Number(row.dataset.news || 0) < lastUpdate)) return;
    changed = null;
    wake();
  }, 200);
}, { passive: true, capture: true });

onEvents((kind, data) => {
  if (kind === "nodes") onChanged(data.many ? null : data.ids);
  if (kind === "open") {
    onChanged(null);
    wake.now();
  }
  if (kind === "error") wake();
});
document.addEventListener("visibilitychange", () => document.hidden || onChanged(null));
setInterval(() => onChanged(null), INTERVAL);
scheduleRootRow();

block.addEventListener("click", (event) => {
  if (event.target.closest('[role="tree"]')) isExplored = true;
});
block.addEventListener("keydown", (event) => {
  if (event.key === "ArrowRight" || event.key === " ") isExplored = true;
});
