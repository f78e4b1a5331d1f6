// The page of one lieutenant: live transcript, facts, and composer.
import { tick } from "./base.js";
import { onTranscript } from "./live.js";
import { keepFresh } from "./refresh.js";
import { get, postForm, RequestFailed } from "./requests.js";
import { turnEnded, onDelta, onEntry, reload } from "./transcript/blocks.js";
import { initComposer, removeComposer } from "./transcript/composer.js";
import { follow, pin } from "./transcript/scrolling.js";
import { swap } from "./transcript/swap.js";

const byId = (id) => document.getElementById(id);
const page = byId("one");

function showProblem(problem) {
  const place = byId("problem");
  place.hidden = !problem;
  place.textContent = problem;
}

function showFailure(error) {
  if (!(error instanceof RequestFailed)) throw error;
  showProblem(error.message);
}

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
  const fragment = await get(link.dataset.url).catch(showFailure);
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

document.addEventListener("submit", async (event) => {
  const form = event.target;
  if (!form.matches("form[data-script]")) return;
  event.preventDefault();
  try {
    const { fragment } = await postForm(form);
    swap(fragment);
    showProblem("");
  } catch (error) {
    showFailure(error);
  }
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
