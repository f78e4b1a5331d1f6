// The page of a lieutenant's changes: the list stays fresh, and files are loaded when they are opened.
import { isWriting, prepare } from "../changes/lines.js";
import { initPanel } from "../changes/panel.js";
import { byId, get, RequestFailed } from "../core.js";
import { keepFresh, onEvents } from "../live.js";
import { swap } from "../swap.js";
import { tick } from "../times.js";

const FIRST_PAUSE = 150;
const MAX_PAUSE = 1500;
const REFRESH_EVERY = 5000;
const pause = (milliseconds) => new Promise((done) => setTimeout(done, milliseconds));

// Fetch a part, again while a worker still reads the folder.
async function fetchPart(url) {
  let wait = FIRST_PAUSE;
  for (;;) {
    const part = await get(url);
    const waiting = part.querySelector("[data-wait]");
    if (!waiting) return part;
    url = waiting.dataset.wait;
    await pause(wait);
    wait = Math.min(MAX_PAUSE, wait * 1.5);
  }
}

// -- one file --------------------------------------------------------------------------------------

async function load(file, url = file.dataset.url) {
  const body = file.querySelector(".file-body");
  const { mark } = file.dataset;
  body.dataset.keep = "";
  body.dataset.mark = mark;
  body.ariaBusy = "true";
  try {
    const part = await fetchPart(url);
    // Opened again meanwhile, or the reader has begun to write.
    if (body.dataset.mark !== mark || isWriting(body)) return;
    if (part.querySelector("[data-failed]")) {
      // It is tried again later; what was shown stays.
      delete body.dataset.mark;
      if (body.querySelector(".diff")) return;
    }
    body.replaceChildren(part);
    body.querySelectorAll(".diff").forEach(prepare);
  } catch (error) {
    if (!(error instanceof RequestFailed)) throw error;
    const note = document.createElement("p");
    note.className = "note is-error";
    note.textContent = error.message;
    body.replaceChildren(note);
    delete body.dataset.mark;
  } finally {
    body.ariaBusy = null;
  }
}

// Load what is open and not up to date.
function loadOpen() {
  for (const file of document.querySelectorAll("details.file[open]")) {
    const body = file.querySelector(".file-body");
    if (body.dataset.mark !== file.dataset.mark && !isWriting(body)) load(file);
  }
}

// The event does not bubble.
document.addEventListener("toggle", loadOpen, true);

document.addEventListener("click", (event) => {
  const more = event.target.closest("[data-more]");
  if (!more || event.ctrlKey || event.metaKey) return;
  event.preventDefault();
  load(more.closest("details.file"), more.href);
});

// -- the list --------------------------------------------------------------------------------------

const refresh = keepFresh(
  "changes",
  async () => {
    const list = byId("changes");
    if (!list.dataset.url) return;
    const url = list.dataset.wait || `${list.dataset.url}${location.search}`;
    swap(await fetchPart(url));
    loadOpen();
    tick();
  },
  { minInterval: REFRESH_EVERY, interval: 60_000 },
);

onEvents((kind, data) => {
  if (kind === "lieutenants" && data.ids?.includes(byId("changes").dataset.lieutenant)) refresh();
  if (kind === "open") refresh();
});

initPanel();
if (byId("changes").dataset.wait) refresh.now();
loadOpen();
