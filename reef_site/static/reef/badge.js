// The badge that shows whether the page is up to date, judged by its stream and its requests.
import { isSelected } from "./selection.js";

const SLOW_AFTER = 3_000;
const STALE_AFTER = 12_000;
const STREAM = "stream";

// Start times of current problems: of the stream, and of requests by name.
const troubles = new Map();
let begun = false;
let isSignedOut = false;
let isPaused = false;
let timer = 0;

const clock = (moment) =>
  new Date(moment).toLocaleTimeString("en-GB", { hour: "2-digit", minute: "2-digit" });

function state() {
  if (isSignedOut) return ["stale", "Signed out"];
  if (!begun) return ["off", "Not live"];
  const since = Math.min(...troubles.values());
  if (Date.now() - since >= STALE_AFTER) return ["stale", `Stale since ${clock(since)}`];
  if (troubles.has(STREAM)) return ["waiting", "Reconnecting…"];
  if (troubles.size) return ["waiting", "Delayed"];
  if (isPaused) return ["waiting", "Paused while you select"];
  return ["live", "Live"];
}

function paint() {
  clearTimeout(timer);
  const element = document.getElementById("live");
  const [name, text] = state();
  // Repaint until the newest problem counts as stale.
  if (troubles.size) timer = setTimeout(paint, 1000);
  if (!element) return;
  element.dataset.state = name;
  const word = element.querySelector(".live-word");
  if (word.textContent !== text && !isSelected(word)) word.textContent = text;
}

function trouble(name, since) {
  if (!troubles.has(name)) troubles.set(name, since);
  paint();
}

function well(name) {
  troubles.delete(name);
  paint();
}

// The stream is connected or not. Each failed try reports this again; the first one counts.
function connected(yes) {
  begun ||= yes;
  if (yes) well(STREAM);
  else trouble(STREAM, Date.now());
}

// A request begins. Returns a function to call with its success.
function fetching(name) {
  const began = Date.now();
  const slow = setTimeout(() => trouble(name, began), SLOW_AFTER);
  return (good) => {
    clearTimeout(slow);
    if (good) well(name);
    else trouble(name, began);
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
