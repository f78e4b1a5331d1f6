// Selected text is not replaced: updates of that part of the page wait.

const waiting = new Map(); // Element → function to call when nothing in it is selected any more.
let onWaiting = () => {};

export function isSelected(element) {
  const selection = getSelection();
  if (!selection || selection.isCollapsed) return false;
  return element.contains(selection.anchorNode) || element.contains(selection.focusNode);
}

// Call `act` now, or when the selection has left the element; of several calls the last one wins.
export function unlessSelected(element, act) {
  if (!isSelected(element)) {
    waiting.delete(element);
    return act();
  }
  waiting.set(element, act);
  onWaiting(true);
}

// Resolves when nothing in the element is selected.
export const unselected = (element) => new Promise((done) => unlessSelected(element, done));

export function whenWaiting(tell) {
  onWaiting = tell;
}

document.addEventListener("selectionchange", () => {
  for (const [element, act] of waiting) {
    if (element.isConnected && isSelected(element)) continue;
    waiting.delete(element);
    act();
  }
  onWaiting(waiting.size > 0);
});
