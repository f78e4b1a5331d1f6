// What the reader has selected is left alone: changes of that part of the page wait.

const waiting = new Map(); // Element → what to do when nothing in it is selected any more.
let onWaiting = () => {};

export function isSelected(element) {
  const selection = getSelection();
  if (!selection || selection.isCollapsed) return false;
  return element.contains(selection.anchorNode) || element.contains(selection.focusNode);
}

// Act now, or once when the selection has left the element; the newest of several acts.
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
