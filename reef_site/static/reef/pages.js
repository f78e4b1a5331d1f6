// Live regions: elements with data-live are fetched again (by htmx) soon after the server reports a
// change of one of the kinds that they name, and periodically in any case.
import { badge } from "./badge.js";
import { tick } from "./base.js";
import { onEvents } from "./live.js";
import { keepFresh } from "./refresh.js";
import { failureOf, isSignInPage, postForm, RequestFailed } from "./requests.js";
import { isSelected, unselected } from "./selection.js";

// Let htmx fetch the region; the response is discarded if the reader has selected text in it.
function fetchPart(region) {
  return new Promise((done, fail) => {
    region.addEventListener(
      "htmx:afterRequest",
      ({ detail: { successful, xhr } }) => {
        if (successful && !isSignInPage(xhr.responseURL)) return done();
        const type = xhr.getResponseHeader("Content-Type") || "";
        fail(xhr.status ? failureOf(type, xhr.responseText, xhr.status) : new RequestFailed("reef does not answer."));
      },
      { once: true },
    );
    htmx.trigger(region, "refresh");
  });
}

async function refresh(region) {
  await unselected(region);
  await fetchPart(region);
  if (isSelected(region)) await refresh(region);
}

document.addEventListener("htmx:beforeSwap", (event) => {
  const { target, xhr } = event.detail;
  if (isSignInPage(xhr.responseURL) || isSelected(target)) event.detail.shouldSwap = false;
});
// Open details stay open.
const openDetails = new Set();
document.addEventListener("htmx:beforeSwap", ({ detail: { target } }) => {
  openDetails.clear();
  for (const details of target.querySelectorAll("details[id][open]")) openDetails.add(details.id);
});
document.addEventListener("htmx:afterSwap", ({ detail: { target } }) => {
  for (const id of openDetails) {
    const details = document.getElementById(id);
    if (details && target.contains(details)) details.open = true;
  }
  badge.paint();
  tick();
});

function init(region) {
  const kinds = region.dataset.live.split(" ");
  const wake = keepFresh(region.id, () => refresh(region));
  onEvents((kind) => {
    if (kinds.includes(kind)) wake();
    if (kind === "open") wake.now();
  });
  // Forms that change only what this region shows.
  region.addEventListener("submit", async (event) => {
    const form = event.target;
    if (!form.matches("form[data-script]")) return;
    event.preventDefault();
    const problem = document.getElementById("problem");
    try {
      await postForm(form);
      wake.now();
      problem.hidden = true;
    } catch (error) {
      if (!(error instanceof RequestFailed)) throw error;
      problem.textContent = error.message;
      problem.hidden = false;
    }
  });
}

document.querySelectorAll("[data-live]").forEach(init);
