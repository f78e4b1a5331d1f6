// The picture: drawn anew for the room that there is, and when something changed.
"use strict";

(() => {
  const part = document.getElementById("picture-part");
  if (!part) return;
  let timer = 0;

  async function draw() {
    timer = 0;
    if (document.hidden) return;
    const url = new URL(part.dataset.url, location);
    url.searchParams.set("width", Math.floor(part.clientWidth));
    const answer = await fetch(url, { headers: { "Reef-Script": "1" } }).catch(() => null);
    if (!answer?.ok || answer.redirected) return;
    const holder = document.createElement("template");
    holder.innerHTML = await answer.text();
    part.replaceChildren(holder.content);
  }

  const soon = (pause) => (timer ||= setTimeout(draw, pause));

  document.getElementById("node-news").addEventListener("htmx:sseBeforeMessage", (event) => {
    event.preventDefault();
    event.stopPropagation();
    soon(2000);
  });
  document.addEventListener("htmx:sseOpen", () => soon(2000));
  document.addEventListener("visibilitychange", () => soon(50));
  setInterval(() => soon(50), 20000);
  let width = 0;
  new ResizeObserver(() => {
    if (Math.abs(part.clientWidth - width) < 8) return;
    width = part.clientWidth;
    soon(50);
  }).observe(part);
})();
