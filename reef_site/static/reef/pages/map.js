// The map: redrawn for the available width, and after changes.
import { byId, get } from "../core.js";
import { keepFresh, onEvents } from "../live.js";
import { morphChildren } from "../swap.js";

const part = byId("picture-part");

async function draw() {
  const url = new URL(part.dataset.url, location);
  url.searchParams.set("width", Math.floor(part.clientWidth));
  morphChildren(part, await get(url));
}

const wake = keepFresh("picture", draw, { minInterval: 2000 });
onEvents((kind) => {
  if (kind === "nodes") wake();
  if (kind === "open") wake.now();
});
let width = 0;
new ResizeObserver(() => {
  if (Math.abs(part.clientWidth - width) < 8) return;
  width = part.clientWidth;
  wake();
}).observe(part);
