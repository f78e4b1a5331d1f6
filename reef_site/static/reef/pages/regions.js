// Live regions: elements with data-live are fetched again (by htmx) soon after the server reports a
// change of one of the kinds that they name, and periodically in any case.
import { failureOf, isSignInPage, RequestFailed } from "../core.js";
import { sendByScript } from "../forms.js";
import { badge, keepFresh, onEvents } from "../live.js";
import { isSelected, unselected } from "../selection.js";
import { morph, morphChildren } from "../swap.js";
import { tick } from "../times.js";
import htmx from "../vendor/htmx-2.0.11.esm.js";

htmx.defineExtension("morph", {
  isInlineSwap: (style) => style === "morph",
  handleSwap(style, target, fragment) {
    if (style === "morph") return morph(target, fragment.firstElementChild || fragment);
    return style === "morph:innerHTML" && morphChildren(target, fragment);
  },
});

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
document.addEventListener("htmx:afterSwap", () => {
  badge.paint();
  tick();
});

// What was sent is not kept for the next time.
function clear(form) {
  form.reset();
  (form.closest("details") ?? form.querySelector("details"))?.removeAttribute("open");
}

const PASSING = 1_000;

function init(region) {
  const kinds = region.dataset.live.split(" ");
  // What is about to change by itself is fetched again without an event.
  const again = () => region.querySelector("[data-passing]") && setTimeout(wake, PASSING);
  const wake = keepFresh(region.id, () => refresh(region).finally(again));
  again();
  onEvents((kind) => {
    if (kinds.includes(kind)) wake();
    if (kind === "open") wake.now();
  });
  region.addEventListener("reef:changed", wake.now);
  // Forms that change only what this region shows.
  sendByScript(region, (_fragment, form) => {
    if (form) clear(form);
    wake.now();
  });
}

document.querySelectorAll("[data-live]").forEach(init);
