// Connections of a window to the hub: in a shared worker, in the leading window, or in this window.
//
// A link has `say(message)` and calls `hear(message)`; `{kind: "joined"}` asks the window to send its
// subscriptions again, because there is a new hub.
import { Hub } from "./hub.js";

const LOCK = "reef-live";
// The hub sends a heartbeat twice a second.
const QUIET_AFTER = 1_500;
const WORKER_QUIET_AFTER = 5_000;
const LOOK_EVERY = 250;

// Calls `act` with the time since the last message of the hub, not counting times of suspension.
class Watch {
  constructor(act) {
    this.act = act;
  }

  begin() {
    this.end();
    this.heard();
    this.lookedAt = performance.now();
    this.timer = setInterval(() => this.look(), LOOK_EVERY);
  }

  heard() {
    this.heardAt = performance.now();
  }

  look() {
    const now = performance.now();
    if (now - this.lookedAt > 4 * LOOK_EVERY) this.heardAt = now;
    this.lookedAt = now;
    this.act(now - this.heardAt);
  }

  end() {
    clearInterval(this.timer);
  }
}

// A hub in this window, for this window only.
export class OwnLink {
  constructor(hear) {
    this.hear = hear;
  }

  start() {
    this.hub = new Hub();
    this.window = { send: (message) => queueMicrotask(() => this.hear(message)) };
    this.hear({ kind: "joined" });
  }

  say(message) {
    this.hub?.take(this.window, message);
  }

  stop() {
    this.hub?.end();
    this.hub = null;
  }
}

// A hub in a shared worker. A silent worker is replaced, and then by a hub in this window.
export class WorkerLink {
  constructor(hear) {
    this.hear = hear;
    this.tries = 0;
    this.watch = new Watch((quiet) => quiet > WORKER_QUIET_AFTER && this.renew());
  }

  start() {
    try {
      const url = new URL("./hub_worker.js", import.meta.url);
      this.worker = new SharedWorker(url, { type: "module", name: LOCK });
    } catch {
      return this.fallBack();
    }
    this.worker.onerror = () => this.fallBack();
    this.worker.port.onmessage = (sent) => {
      this.watch.heard();
      this.tries = 0;
      this.hear(sent.data);
    };
    this.watch.begin();
    this.hear({ kind: "joined" });
  }

  renew() {
    this.stop();
    this.tries += 1;
    if (this.tries < 2) this.start();
    else this.fallBack();
  }

  fallBack() {
    this.stop();
    this.own = new OwnLink(this.hear);
    this.own.start();
  }

  say(message) {
    if (this.own) this.own.say(message);
    else this.worker?.port.postMessage(message);
  }

  stop() {
    this.watch.end();
    this.own?.stop();
    this.own = null;
    if (this.worker) {
      this.worker.port.postMessage({ do: "bye" });
      this.worker.port.close();
    }
    this.worker = null;
  }
}

// A hub in one of the visible windows: the one that holds the lock leads. A closed leader releases
// the lock to the next window; a hanging one has it stolen.
export class LeaderLink {
  constructor(hear) {
    this.hear = hear;
    this.id = crypto.getRandomValues(new Uint32Array(2)).join("-");
    const patience = QUIET_AFTER + Math.random() * LOOK_EVERY;
    this.watch = new Watch((quiet) => quiet > patience && this.takeOver());
  }

  start() {
    this.channel = new BroadcastChannel(`${LOCK} ${new URL(".", import.meta.url).pathname}`);
    this.channel.onmessage = (sent) => this.take(sent.data);
    this.watch.begin();
    this.ask();
    this.channel.postMessage({ from: this.id, to: "hub", message: { do: "alive" } });
  }

  ask(options = {}) {
    const link = this;
    this.stopping?.abort();
    this.stopping = new AbortController();
    const { signal } = this.stopping;
    const how = options.steal ? options : { signal };
    navigator.locks.request(this.channel.name, how, () => link.lead(signal)).catch((error) => {
      if (error.name !== "AbortError") throw error;
      // Stolen by a window that took this one for dead: follow that window.
      if (signal.aborted) return;
      this.unlead();
      this.watch.heard();
      this.ask();
    });
  }

  lead(signal) {
    if (signal.aborted) return null;
    this.hub = new Hub();
    this.windows = new Map();
    this.channel.postMessage({ to: "all", message: { kind: "joined" } });
    this.hear({ kind: "joined" });
    return new Promise((done) => signal.addEventListener("abort", done));
  }

  unlead() {
    this.hub?.end();
    this.hub = null;
  }

  takeOver() {
    this.watch.heard();
    if (!this.hub) this.ask({ steal: true });
  }

  take({ from, to, message }) {
    if (to === "hub" && this.hub) this.hub.take(this.windowOf(from), message);
    if (to !== this.id && to !== "all") return;
    this.watch.heard();
    this.hear(message);
  }

  windowOf(id) {
    if (!this.windows.has(id)) {
      const send = (message) => this.channel.postMessage({ to: id, message });
      this.windows.set(id, { send });
    }
    return this.windows.get(id);
  }

  say(message) {
    if (!this.hub) return void this.channel?.postMessage({ from: this.id, to: "hub", message });
    this.mine ||= { send: (answer) => queueMicrotask(() => this.hear(answer)) };
    this.hub.take(this.mine, message);
  }

  stop() {
    this.watch.end();
    this.stopping?.abort();
    this.unlead();
    this.channel?.close();
    this.channel = null;
  }
}

export function makeLink(hear) {
  if (window.SharedWorker) return new WorkerLink(hear);
  if (window.BroadcastChannel && navigator.locks) return new LeaderLink(hear);
  return new OwnLink(hear);
}
