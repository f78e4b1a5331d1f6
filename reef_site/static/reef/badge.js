// The badge that shows whether the page is up to date, judged by its stream and its requests.
import { isSelected } from "./selection.js";

const SLOW_AFTER = 3_000;
const STALE_AFTER = 12_000;
const STREAM = "stream";

// Start times of current problems: of the stream, and of requests by name.
const problems = new Map();
let wasConnected = false;
let isSignedOut = false;
let isPaused = false;
let timer = 0;

const clock = (moment) =>
  new Date(moment).toLocaleTimeString("en-GB", { hour: "2-digit", minute: "2-digit" });

function state() {
  if (isSignedOut) return ["stale", "Signed out"];
  if (!wasConnected) return ["off", "Not live"];
  const since = Math.min(...problems.values());
  if (Date.now() - since >= STALE_AFTER) return ["stale", `Stale since ${clock(since)}`];
  if (problems.has(STREAM)) return ["waiting", "Reconnecting…"];
  if (problems.size) return ["waiting", "Delayed"];
  if (isPaused) return ["waiting", "Paused while you select"];
  return ["live", "Live"];
}

function paint() {
  clearTimeout(timer);
  const element = document.getElementById("live");
  const [name, text] = state();
  // Repaint until the newest problem counts as stale.
  if (problems.size) timer = setTimeout(paint, 1000);
  if (!element) return;
  element.dataset.state = name;
  const word = element.querySelector(".live-word");
  if (word.textContent !== text && !isSelected(word)) word.textContent = text;
}

function addProblem(name, since) {
  if (!problems.has(name)) problems.set(name, since);
  paint();
}

function clearProblem(name) {
  problems.delete(name);
  paint();
}

// The stream is connected or not. Each failed try reports this again; the first one counts.
function connected(yes) {
  wasConnected ||= yes;
  if (yes) clearProblem(STREAM);
  else addProblem(STREAM, Date.now());
}

// A request begins. Returns a function to call with its success.
function fetching(name) {
  const began = Date.now();
  const slow = setTimeout(() => addProblem(name, began), SLOW_AFTER);
  return (good) => {
    clearTimeout(slow);
    if (good) clearProblem(name);
    else addProblem(name, began);
  };
}

function signedOut(yes) {
  isSignedOut = yes;
  paint();
}

function paused(yes) {
  isPaused = yes;
  paint();
}

export const badge = { paint, connected, fetching, signedOut, paused };
