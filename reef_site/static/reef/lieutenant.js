// The page of one lieutenant: live transcript, facts, and composer.
import { tick } from "./base.js";
import { onTranscript } from "./live.js";
import { keepFresh } from "./refresh.js";
import { get, postForm, RequestFailed } from "./requests.js";
import { answerIsOver, onDelta, onEntry, reload } from "./transcript/blocks.js";
import { beginToSend, removeComposer } from "./transcript/composer.js";
import { follow, pin } from "./transcript/reading.js";
import { swap } from "./transcript/swap.js";

const byId = (id) => document.getElementById(id);
const one = byId("one");

function tell(problem) {
  const place = byId("problem");
  place.hidden = !problem;
  place.textContent = problem;
}

function tellFailure(error) {
  if (!(error instanceof RequestFailed)) throw error;
  tell(error.message);
}

// -- the facts panel -----------------------------------------------------------------------------

async function facts() {
  swap(await get(one.dataset.nowUrl));
  follow();
  // The end of a start or stop sends no event, so poll.
  if (document.querySelector("[data-passing]")) setTimeout(factsSoon, 2000);
}

const isLive = "follow" in one.dataset;
const factsSoon = keepFresh("facts", facts, { soonest: 150, slower: 1, often: isLive ? 30000 : 0 });

// -- the transcript ------------------------------------------------------------------------------

let leave = null;

function connect() {
  const after = Number(byId("blocks").dataset.rev);
  leave = onTranscript(one.dataset.streamUrl, after, hear);
}

// The stream cannot continue: load the current transcript and connect again.
const startOver = keepFresh("transcript", async () => {
  await reload();
  connect();
  follow();
}, { soonest: 100, slower: 0, often: 0 });

const kinds = {
  open: () => factsSoon.now(),
  error: () => factsSoon(),
  entry: (entry) => {
    onEntry(entry);
    follow();
  },
  delta: (delta, rev) => onDelta(delta, rev),
  status: (status) => {
    factsSoon();
    if (status.status !== "working") answerIsOver();
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

const hear = (kind, data, id) => kinds[kind]?.(data, id);

// -- earlier entries -------------------------------------------------------------------------------

byId("transcript").addEventListener("click", async (event) => {
  const link = event.target.closest("#earlier");
  if (!link || event.ctrlKey || event.metaKey) return;
  event.preventDefault();
  link.setAttribute("aria-busy", "true");
  const fragment = await get(link.dataset.url).catch(tellFailure);
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
    tell("");
  } catch (error) {
    tellFailure(error);
  }
  factsSoon();
});

beginToSend((fragment) => {
  swap(fragment);
  factsSoon();
  pin(true);
});

history.scrollRestoration = "manual";
if (isLive) {
  follow();
  addEventListener("load", follow);
  connect();
}
