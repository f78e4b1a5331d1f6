// Reading on: the page follows the transcript's end until the reader scrolls away from it.
import { isSelected } from "../selection.js";

const byId = (id) => document.getElementById(id);
const newest = byId("newest");
const foot = byId("foot");

let pinned = true;
let lastY = scrollY;

// Where the page must be scrolled to for the transcript's end to be in sight. The foot sticks to
// the window's edge, so its column is measured; on small screens the facts come below it.
const end = () =>
  Math.max(0, foot.parentElement.getBoundingClientRect().bottom + scrollY - innerHeight);

export function follow() {
  if (pinned && !isSelected(byId("blocks"))) scrollTo({ top: end(), behavior: "instant" });
  newest.hidden = pinned;
}

addEventListener("scroll", () => {
  const near = Math.abs(scrollY - end()) < 48;
  // Only the reader moves up or past the end; the page itself moves to the end.
  if (near) pinned = true;
  else if (scrollY < lastY || scrollY > end()) pinned = false;
  lastY = scrollY;
  newest.hidden = pinned;
}, { passive: true });
newest.addEventListener("click", () => {
  pinned = true;
  follow();
});

export const isPinned = () => pinned;

export function pin(yes) {
  pinned = yes;
}
