// Keyboard and mouse in the live tree.
import { chooseAll, press } from "../choosing.js";
import { byId } from "../core.js";
import { block } from "./common.js";
import * as panel from "./side_panel.js";
import {
  childrenOf, focus, close, isMore, isNode, isOpen, isRootRow, last, more, next, parentOf, previous, tree, open,
} from "./rows.js";

const toggle = (row) => (isOpen(row) ? close(row) : open(row));
// The root row and groups are not VMs.
const isVM = (row) => (isNode(row) && !isRootRow(row)) || Boolean(row.dataset.facts);

function act(row) {
  if (isMore(row)) more(row);
  else if (isVM(row)) panel.show(row, true);
  else toggle(row);
}

const isSelectable = block.classList.contains("is-selectable");
let typed = "";
let typedAt = -Infinity;

// Typed letters move to the next row whose name begins with them.
function seek(row, letter) {
  typed = performance.now() - typedAt > 800 ? letter : typed + letter;
  typedAt = performance.now();
  const begins = (each) =>
    each.querySelector(".vm-name")?.textContent.trim().toLowerCase().startsWith(typed.toLowerCase());
  const rows = [...tree().children].filter((each) => !each.hidden);
  const at = rows.indexOf(row) + (typed.length > 1 ? 0 : 1);
  focus([...rows.slice(at), ...rows.slice(0, at)].find(begins));
}

const keys = {
  ArrowDown: (row) => focus(next(row)),
  ArrowUp: (row) => focus(previous(row)),
  ArrowRight: (row) => (isOpen(row) ? focus(childrenOf(row)[0]) : open(row)),
  ArrowLeft: (row) => (isOpen(row) && !isRootRow(row) ? close(row) : focus(parentOf(row))),
  Home: () => focus(tree().firstElementChild),
  End: () => focus(last()),
  Enter: (row) => act(row),
  " ": (row) => toggle(row),
};

// Move on, and choose both rows.
function pass(row, to) {
  if (isSelectable) chooseAll(row, to);
  focus(to);
}

// As in other lists; they are letters while a name is typed.
const listKeys = "list" in block.dataset ? {
  j: keys.ArrowDown,
  k: keys.ArrowUp,
  x: (row) => isSelectable && press(row),
  J: (row) => pass(row, next(row)),
  K: (row) => pass(row, previous(row)),
  X: (row) => isSelectable && press(row, true),
  "/": () => byId("tree-q")?.focus(),
} : {};
const isTypingName = () => performance.now() - typedAt < 800;

block.addEventListener("keydown", (event) => {
  const row = event.target.closest('[role="treeitem"]');
  if (!row || event.ctrlKey || event.metaKey || event.altKey) return;
  if (keys[event.key]) {
    event.preventDefault();
    keys[event.key](row);
  } else if (listKeys[event.key] && !isTypingName()) {
    event.preventDefault();
    listKeys[event.key](row);
  } else if (event.key.length === 1) {
    seek(row, event.key);
  }
});

block.addEventListener("click", (event) => {
  if (event.ctrlKey || event.metaKey || event.shiftKey || event.button) return;
  if (event.target.closest("[data-close]")) return panel.close();
  const link = event.target.closest("a[data-beside]");
  if (link) {
    event.preventDefault();
    panel.fill(link.dataset.beside);
  }
  const row = event.target.closest('[role="treeitem"]');
  if (!row) return;
  if (event.target.matches(".pick-box")) return focus(row);
  event.preventDefault();
  focus(row);
  if (event.target.closest(".twist")) toggle(row);
  else act(row);
});
