// Scrolling: the page follows the end of the transcript until the reader scrolls away.
import { byId } from "../core.js";
import { isSelected } from "../selection.js";

const newest = byId("newest");
const foot = byId("foot");

// Whether the newest blocks are on the page.
export const hasNewest = () => !byId("later");

let pinned = hasNewest() && !("at" in byId("one").dataset);
let lastY = scrollY;

// Scroll position that shows the end of the transcript. The foot is sticky, so its column is
// measured; on small screens the facts come below it.
const end = () =>
  Math.max(0, foot.parentElement.getBoundingClientRect().bottom + scrollY - innerHeight);

export function follow() {
  if (pinned && !isSelected(byId("blocks"))) scrollTo({ top: end(), behavior: "instant" });
  newest.hidden = pinned;
}

addEventListener("scroll", () => {
  const near = Math.abs(scrollY - end()) < 48;
  // Only the reader scrolls up or past the end; the page itself scrolls to the end.
  if (near && hasNewest()) pinned = true;
  else if (scrollY < lastY || scrollY > end()) pinned = false;
  lastY = scrollY;
  newest.hidden = pinned;
}, { passive: true });

let showNewest = async () => {};
// `act` loads the newest blocks.
export const whenNewest = (act) => (showNewest = act);

newest.addEventListener("click", async () => {
  if (!hasNewest()) await showNewest();
  pinned = hasNewest();
  follow();
});

export const isPinned = () => pinned;

export function pin(yes) {
  pinned = yes && hasNewest();
}
