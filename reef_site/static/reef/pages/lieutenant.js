// The page of one lieutenant: live transcript, facts, and composer.
import { byId, get, showFailure } from "../core.js";
import { sendByScript } from "../forms.js";
import { keepFresh, onTranscript } from "../live.js";
import { swap } from "../swap.js";
import { tick } from "../times.js";
import { onDelta, onEntry, reload, turnEnded } from "../transcript/blocks.js";
import { initComposer, removeComposer } from "../transcript/composer.js";
import { follow, pin } from "../transcript/scrolling.js";

const page = byId("one");

// -- the facts panel -----------------------------------------------------------------------------

async function refreshFacts() {
  swap(await get(page.dataset.nowUrl));
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
  const after = Number(byId("blocks").dataset.rev);
  leave = onTranscript(page.dataset.streamUrl, after, onChange);
}

// The stream cannot continue: load the current transcript and connect again.
const startOver = keepFresh("transcript", async () => {
  await reload();
  connect();
  follow();
}, { minInterval: 100, slowdown: 0, interval: 0 });

const kinds = {
  open: () => refreshFactsSoon.now(),
  error: () => refreshFactsSoon(),
  entry: (entry) => {
    onEntry(entry);
    follow();
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
    leave();
    startOver();
  },
};

const onChange = (kind, data, id) => kinds[kind]?.(data, id);

// -- earlier entries -------------------------------------------------------------------------------

byId("transcript").addEventListener("click", async (event) => {
  const link = event.target.closest("#earlier");
  if (!link || event.ctrlKey || event.metaKey) return;
  event.preventDefault();
  link.setAttribute("aria-busy", "true");
  const fragment = await get(link.dataset.url).catch((error) => showFailure(byId("problem"), error));
  if (!fragment) return void link.removeAttribute("aria-busy");
  const height = document.documentElement.scrollHeight;
  const older = fragment.querySelector("#blocks").children;
  const more = fragment.querySelector("#earlier");
  byId("blocks").prepend(...[...older].filter((block) => !byId(block.id)));
  if (more) link.replaceWith(more);
  else link.closest("p").remove();
  pin(false);
  scrollBy({ top: document.documentElement.scrollHeight - height, behavior: "instant" });
  tick();
});

// -- buttons without a confirmation -----------------------------------------------------------------

sendByScript(document, (fragment) => {
  if (fragment) swap(fragment);
  refreshFactsSoon();
});

initComposer((fragment) => {
  swap(fragment);
  refreshFactsSoon();
  pin(true);
});

history.scrollRestoration = "manual";
if (isLive) {
  follow();
  addEventListener("load", follow);
  connect();
}
