// What the server tells of, as this window wants to hear it. All windows of a browser share their
// streams (hub.js); a window that nobody looks at follows nothing, also one that was opened so.
import { badge } from "./badge.js";
import { makeLink } from "./links.js";

const LEAVE_AFTER = 3_000;
const ALIVE_EVERY = 5_000;

const wants = new Map(); // Address → {type, after, hear}
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

// Hear of changes in the fleet: `hear(kind, data)` with the kinds of GET /events, and "open" when
// the stream begins, after which anything may have changed.
export function onEvents(listener) {
  const topic = document.documentElement.dataset.events;
  const earlier = wants.get(topic)?.hear;
  const all = (kind, data) => {
    earlier?.(kind, data);
    listener(kind, data);
  };
  follow(topic, { type: "events", after: null, hear: all });
}

// Hear a transcript from the change `after` on. Gives what ends it.
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
// A page that is kept for the Back button hears nothing, and is told all when it comes back.
addEventListener("pagehide", () => joined && part());
addEventListener("pageshow", (event) => event.persisted && wants.size && join());
setInterval(() => joined && link.say({ do: "alive" }), ALIVE_EVERY);
