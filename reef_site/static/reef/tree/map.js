// The map: redrawn for the available width, and after changes.
import { onEvents } from "../live.js";
import { keepFresh } from "../refresh.js";
import { get } from "../requests.js";

const part = document.getElementById("picture-part");

async function draw() {
  const url = new URL(part.dataset.url, location);
  url.searchParams.set("width", Math.floor(part.clientWidth));
  part.replaceChildren(await get(url));
}

function init() {
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
}

if (part) init();
