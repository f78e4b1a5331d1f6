// How a page stays live: subscriptions to the server's events, refreshing with back-off, and the badge.
//
// All windows of a browser share their streams (hub/); a hidden window subscribes to nothing.
import { byId, onSignIn, RequestFailed } from "./core.js";
import { makeLink } from "./hub/links.js";
import { isSelected, whenWaiting } from "./selection.js";

// -- the badge -------------------------------------------------------------------------------------

const SLOW_AFTER = 3_000;
const STALE_AFTER = 12_000;
const STREAM = "stream";

// Start times of current problems: of the stream, and of requests by name.
const problems = new Map();
let wasConnected = false;
let isSignedOut = false;
let isPaused = false;
let timer = 0;

// As the server shows times.
const timeZone = document.documentElement.dataset.zone || undefined;
const clock = (moment) =>
  new Date(moment).toLocaleTimeString("en-GB", { hour: "2-digit", minute: "2-digit", timeZone });

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
  const element = byId("live");
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
function showConnection(yes) {
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

onSignIn((isOver) => {
  isSignedOut = isOver;
  paint();
});
whenWaiting((yes) => {
  isPaused = yes;
  paint();
});

export const badge = { paint, fetching };

// -- refreshing ------------------------------------------------------------------------------------

const MAX_PAUSE = 30_000;
const DEFAULT_INTERVAL = 20_000;

// Keep a part of the page fresh: it is fetched soon after each change, one request at a time, with
// growing intervals after failures, which the badge shows.
//
// Returns `wake()`, to be called after a change; `wake.now()` also resets failures. `minInterval` is the
// shortest time between two runs in milliseconds; if the server is slow, it is `slowdown` times the
// duration of the last run.
export function keepFresh(name, work, { minInterval = 1000, slowdown = 8, interval = DEFAULT_INTERVAL } = {}) {
  let wanted = false;
  let running = false;
  let timer = 0;
  let failures = 0;
  let began = -Infinity;
  let ended = -Infinity;

  function due() {
    if (failures) return ended + Math.min(1000 * 2 ** (failures - 1), MAX_PAUSE);
    return began + Math.max(minInterval, (ended - began) * slowdown || 0);
  }

  function wake() {
    wanted = true;
    if (timer || running || document.hidden) return;
    timer = setTimeout(run, Math.max(20, due() - performance.now()));
  }

  wake.now = () => {
    failures = 0;
    clearTimeout(timer);
    timer = 0;
    wake();
  };

  async function run() {
    timer = 0;
    if (document.hidden) return;
    wanted = false;
    running = true;
    began = performance.now();
    const done = fetching(name);
    try {
      await work();
      failures = 0;
      done(true);
    } catch (error) {
      if (!(error instanceof RequestFailed)) reportError(error);
      failures += 1;
      wanted = true;
      done(false);
    }
    ended = performance.now();
    running = false;
    if (wanted) wake();
  }

  const resume = () => (interval || wanted) && wake.now();
  document.addEventListener("visibilitychange", () => document.hidden || resume());
  addEventListener("pageshow", (event) => event.persisted && resume());
  if (interval) setInterval(wake, interval);
  return wake;
}

// -- subscriptions ---------------------------------------------------------------------------------

const LEAVE_AFTER = 3_000;
const ALIVE_EVERY = 5_000;

const subscriptions = new Map(); // URL → {type, after, onMessage}
let joined = false;
let leaving = 0;

function onMessage(message) {
  if (message.kind === "joined" || message.kind === "lost") return void (joined && followAll());
  const subscription = subscriptions.get(message.topic);
  if (!subscription || !joined) return;
  if (message.id !== null) subscription.after = message.id;
  if (message.kind === "open" || message.kind === "error") showConnection(message.kind === "open");
  subscription.onMessage(message.kind, JSON.parse(message.data), message.id);
}

const link = makeLink(onMessage);

const send = (topic, { type, after }) => link.send({ do: "follow", topic, type, after });

function followAll() {
  for (const [topic, subscription] of subscriptions) send(topic, subscription);
}

function join() {
  clearTimeout(leaving);
  leaving = 0;
  if (joined || document.hidden) return;
  joined = true;
  link.start();
}

function leave() {
  joined = false;
  link.send({ do: "bye" });
  link.stop();
}

function follow(topic, subscription) {
  subscriptions.set(topic, subscription);
  if (joined) send(topic, subscription);
  else join();
}

// Subscribe to changes in the fleet: `listener(kind, data)` gets the kinds of GET /events, and "open"
// when the stream begins, after which anything may have changed.
export function onEvents(listener) {
  const topic = document.documentElement.dataset.events;
  const earlier = subscriptions.get(topic)?.onMessage;
  const all = (kind, data) => {
    earlier?.(kind, data);
    listener(kind, data);
  };
  follow(topic, { type: "events", after: null, onMessage: all });
}

// Subscribe to a transcript from the change `after` on. Returns a function that unsubscribes.
export function onTranscript(topic, after, listener) {
  follow(topic, { type: "transcript", after, onMessage: listener });
  return () => {
    subscriptions.delete(topic);
    if (joined) link.send({ do: "leave", topic });
  };
}

document.addEventListener("visibilitychange", () => {
  if (!subscriptions.size) return;
  if (!document.hidden) join();
  else if (joined) leaving = setTimeout(leave, LEAVE_AFTER);
});
// A page in the back/forward cache is unsubscribed; it subscribes again when it is shown.
addEventListener("pagehide", () => joined && leave());
addEventListener("pageshow", (event) => event.persisted && subscriptions.size && join());
setInterval(() => joined && link.send({ do: "alive" }), ALIVE_EVERY);
