// Subscriptions of this window to the server's events. All windows of a browser share their streams
// (hub.js); a hidden window subscribes to nothing.
import { badge } from "./badge.js";
import { makeLink } from "./links.js";

const LEAVE_AFTER = 3_000;
const ALIVE_EVERY = 5_000;

const wants = new Map(); // URL → {type, after, hear}
let joined = false;
let leaving = 0;

function hear(message) {
  if (message.kind === "joined" || message.kind === "lost") return void (joined && followAll());
  const want = wants.get(message.topic);
  if (!want || !joined) return;
  if (message.id !== null) want.after = message.id;
  if (message.kind === "open" || message.kind === "error") badge.connected(message.kind === "open");
  want.hear(message.kind, JSON.parse(message.data), message.id);
}

const link = makeLink(hear);

const say = (topic, want) => link.say({ do: "follow", topic, type: want.type, after: want.after });

function followAll() {
  for (const [topic, want] of wants) say(topic, want);
}

function join() {
  clearTimeout(leaving);
  leaving = 0;
  if (joined || document.hidden) return;
  joined = true;
  link.start();
}

function part() {
  joined = false;
  link.say({ do: "bye" });
  link.stop();
}

function follow(topic, want) {
  wants.set(topic, want);
  if (joined) say(topic, want);
  else join();
}

// Subscribe to changes in the fleet: `listener(kind, data)` gets the kinds of GET /events, and "open"
// when the stream begins, after which anything may have changed.
export function onEvents(listener) {
  const topic = document.documentElement.dataset.events;
  const earlier = wants.get(topic)?.hear;
  const all = (kind, data) => {
    earlier?.(kind, data);
    listener(kind, data);
  };
  follow(topic, { type: "events", after: null, hear: all });
}

// Subscribe to a transcript from the change `after` on. Returns a function that unsubscribes.
export function onTranscript(topic, after, listener) {
  follow(topic, { type: "transcript", after, hear: listener });
  return () => {
    wants.delete(topic);
    if (joined) link.say({ do: "leave", topic });
  };
}

document.addEventListener("visibilitychange", () => {
  if (!wants.size) return;
  if (!document.hidden) join();
  else if (joined) leaving = setTimeout(part, LEAVE_AFTER);
});
// A page in the back/forward cache is unsubscribed; it subscribes again when it is shown.
addEventListener("pagehide", () => joined && part());
addEventListener("pageshow", (event) => event.persisted && wants.size && join());
setInterval(() => joined && link.say({ do: "alive" }), ALIVE_EVERY);
