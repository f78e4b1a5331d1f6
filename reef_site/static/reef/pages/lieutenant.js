// The page of one lieutenant: live transcript, facts, and composer.
import { byId, get, showFailure } from "../core.js";
import { sendByScript } from "../forms.js";
import { keepFresh, onTranscript } from "../live.js";
import { swap } from "../swap.js";
import { forget, onDelta, onEntry, turnEnded } from "../transcript/blocks.js";
import { initComposer, removeComposer } from "../transcript/composer.js";
import "../transcript/copying.js";
import { initFinding } from "../transcript/finding.js";
import { initJumps } from "../transcript/jumps.js";
import "../transcript/pieces.js";
import { closeEditor, keepQueue } from "../transcript/queue.js";
import { follow, pin, whenNewest } from "../transcript/scrolling.js";
import { place, showWindow } from "../transcript/window.js";

const page = byId("one");

// -- the facts panel -----------------------------------------------------------------------------

async function refreshFacts() {
  const fragment = await get(page.dataset.nowUrl);
  keepQueue(() => swap(fragment));
  follow();
  // The end of a start or stop sends no event, so poll.
  if (document.querySelector("[data-passing]")) setTimeout(refreshFactsSoon, 2000);
}

const isLive = "follow" in page.dataset;
const refreshFactsSoon = keepFresh("facts", refreshFacts, {
  minInterval: 150,
  slowdown: 1,
  interval: isLive ? 30000 : 0,
});

// -- the transcript ------------------------------------------------------------------------------

let leave = null;

function connect() {
  if (!isLive) return;
  const after = Number(byId("blocks").dataset.rev);
  leave = onTranscript(page.dataset.streamUrl, after, onChange);
}

// The stream cannot continue: load the current transcript and connect again.
const startOver = keepFresh("transcript", async () => {
  const at = place();
  await showWindow(at);
  if (at) byId(`e${at}`)?.scrollIntoView({ behavior: "instant" });
  forget();
  connect();
  follow();
}, { minInterval: 100, slowdown: 0, interval: 0 });

const kinds = {
  open: () => refreshFactsSoon.now(),
  error: () => refreshFactsSoon(),
  entry: (entry, rev) => {
    onEntry(entry, rev);
    follow();
    // What came after a message that was taken back looks different now.
    if (entry.data?.rewind) kinds.reload();
  },
  delta: (delta, rev) => onDelta(delta, rev),
  status: (status) => {
    refreshFactsSoon();
    if (status.status !== "working") turnEnded();
    if (status.status === "destroyed") {
      leave();
      removeComposer();
    }
  },
  reload: () => {
    leave?.();
    startOver();
  },
};

const onChange = (kind, data, id) => kinds[kind]?.(data, id);

// -- other parts of the transcript --------------------------------------------------------------------

// Show the part around an entry, or the newest one, and follow changes from there.
async function showPart(id = null) {
  leave?.();
  try {
    await showWindow(id);
    forget();
  } finally {
    connect();
  }
}

whenNewest(() => showPart().catch((error) => showFailure(byId("problem"), error)));
initJumps(showPart);
initFinding();

// -- the rest of long answers --------------------------------------------------------------------

byId("transcript").addEventListener("click", async (event) => {
  const link = event.target.closest("[data-more] [data-url]");
  if (!link || event.ctrlKey || event.metaKey) return;
  event.preventDefault();
  link.setAttribute("aria-busy", "true");
  pin(false);
  const fragment = await get(link.dataset.url).catch((error) => showFailure(byId("problem"), error));
  if (!fragment) return void link.removeAttribute("aria-busy");
  const part = fragment.firstElementChild;
  link.closest("[data-more]").replaceWith(...fragment.childNodes);
  // Whoever reads on by keyboard goes on where the link was.
  part.tabIndex = -1;
  part.focus({ preventScroll: true });
});

// -- buttons without a confirmation -----------------------------------------------------------------

sendByScript(document, (fragment, form) => {
  closeEditor(form);
  if (fragment) keepQueue(() => swap(fragment));
  refreshFactsSoon();
});

initComposer((fragment) => {
  swap(fragment);
  refreshFactsSoon();
  pin(true);
});

history.scrollRestoration = "manual";
follow();
addEventListener("load", follow);
connect();
