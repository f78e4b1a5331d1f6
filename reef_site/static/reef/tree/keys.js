// Keyboard and mouse in the live tree.
import { block } from "./asking.js";
import * as beside from "./beside.js";
import {
  childrenOf, focus, fold, isMore, isNode, isOpen, isRoof, last, more, next, parentOf, previous, tree, unfold,
} from "./rows.js";

const toggle = (row) => (isOpen(row) ? fold(row) : unfold(row));
// The root row and groups are not VMs.
const isVM = (row) => (isNode(row) && !isRoof(row)) || Boolean(row.dataset.facts);

function act(row) {
  if (isMore(row)) more(row);
  else if (isVM(row)) beside.show(row, true);
  else toggle(row);
}

let typed = "";
let typedAt = 0;

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
  ArrowRight: (row) => (isOpen(row) ? focus(childrenOf(row)[0]) : unfold(row)),
  ArrowLeft: (row) => (isOpen(row) && !isRoof(row) ? fold(row) : focus(parentOf(row))),
  Home: () => focus(tree().firstElementChild),
  End: () => focus(last()),
  Enter: (row) => act(row),
  " ": (row) => toggle(row),
};

block.addEventListener("keydown", (event) => {
  const row = event.target.closest('[role="treeitem"]');
  if (!row || event.ctrlKey || event.metaKey || event.altKey) return;
  if (keys[event.key]) {
    event.preventDefault();
    keys[event.key](row);
  } else if (event.key.length === 1) {
    seek(row, event.key);
  }
});

block.addEventListener("click", (event) => {
  if (event.ctrlKey || event.metaKey || event.shiftKey || event.button) return;
  if (event.target.closest("[data-close]")) return beside.close();
  const link = event.target.closest("a[data-beside]");
  if (link) {
    event.preventDefault();
    beside.fill(link.dataset.beside);
  }
  const row = event.target.closest('[role="treeitem"]');
  if (!row) return;
  event.preventDefault();
  focus(row);
  if (event.target.closest(".twist")) toggle(row);
  else act(row);
});
