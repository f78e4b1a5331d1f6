// Subscriptions of this window to the server's events. All windows of a browser share their streams
// (hub.js); a hidden window subscribes to nothing.
import { badge } from "./badge.js";
import { makeLink } from "./links.js";

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
  if (message.kind === "open" || message.kind === "error") badge.connected(message.kind === "open");
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
