// Connections of a window to the hub: in a shared worker, in the leading window, or in this window.
//
// A link has `send(message)` and calls `onMessage(message)`; `{kind: "joined"}` asks the window to send its
// subscriptions again, because there is a new hub.
import { Hub } from "./hub.js";

const LOCK = "reef-live";
// The hub sends a heartbeat twice a second.
const QUIET_AFTER = 1_500;
const WORKER_QUIET_AFTER = 5_000;
const CHECK_EVERY = 250;

// Calls `onCheck` with the time since the last message of the hub, not counting times of suspension.
class SilenceTimer {
  constructor(onCheck) {
    this.onCheck = onCheck;
  }

  begin() {
    this.end();
    this.heard();
    this.checkedAt = performance.now();
    this.timer = setInterval(() => this.check(), CHECK_EVERY);
  }

  heard() {
    this.heardAt = performance.now();
  }

  check() {
    const now = performance.now();
    if (now - this.checkedAt > 4 * CHECK_EVERY) this.heardAt = now;
    this.checkedAt = now;
    this.onCheck(now - this.heardAt);
  }

  end() {
    clearInterval(this.timer);
  }
}

// A hub in this window, for this window only.
export class OwnLink {
  constructor(onMessage) {
    this.onMessage = onMessage;
  }

  start() {
    this.hub = new Hub();
    this.window = { send: (message) => queueMicrotask(() => this.onMessage(message)) };
    this.onMessage({ kind: "joined" });
  }

  send(message) {
    this.hub?.onMessage(this.window, message);
  }

  stop() {
    this.hub?.end();
    this.hub = null;
  }
}

// A hub in a shared worker. A silent worker is replaced, and then by a hub in this window.
export class WorkerLink {
  constructor(onMessage) {
    this.onMessage = onMessage;
    this.tries = 0;
    this.silenceTimer = new SilenceTimer((silence) => silence > WORKER_QUIET_AFTER && this.renew());
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
      this.silenceTimer.heard();
      this.tries = 0;
      this.onMessage(sent.data);
    };
    this.silenceTimer.begin();
    this.onMessage({ kind: "joined" });
  }

  renew() {
    this.stop();
    this.tries += 1;
    if (this.tries < 2) this.start();
    else this.fallBack();
  }

  fallBack() {
    this.stop();
    this.own = new OwnLink(this.onMessage);
    this.own.start();
  }

  send(message) {
    if (this.own) this.own.send(message);
    else this.worker?.port.postMessage(message);
  }

  stop() {
    this.silenceTimer.end();
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
  constructor(onMessage) {
    this.onMessage = onMessage;
    this.id = crypto.getRandomValues(new Uint32Array(2)).join("-");
    const patience = QUIET_AFTER + Math.random() * CHECK_EVERY;
    this.silenceTimer = new SilenceTimer((silence) => silence > patience && this.takeOver());
  }

  start() {
    this.channel = new BroadcastChannel(`${LOCK} ${new URL("./hub.js", import.meta.url).pathname}`);
    this.channel.onmessage = (sent) => this.receive(sent.data);
    this.silenceTimer.begin();
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
      this.stopLeading();
      this.silenceTimer.heard();
      this.ask();
    });
  }

  lead(signal) {
    if (signal.aborted) return null;
    this.hub = new Hub();
    this.windows = new Map();
    this.channel.postMessage({ to: "all", message: { kind: "joined" } });
    this.onMessage({ kind: "joined" });
    return new Promise((done) => signal.addEventListener("abort", done));
  }

  stopLeading() {
    this.hub?.end();
    this.hub = null;
  }

  takeOver() {
    this.silenceTimer.heard();
    if (!this.hub) this.ask({ steal: true });
  }

  receive({ from, to, message }) {
    if (to === "hub" && this.hub) this.hub.onMessage(this.windowOf(from), message);
    if (to !== this.id && to !== "all") return;
    this.silenceTimer.heard();
    this.onMessage(message);
  }

  windowOf(id) {
    if (!this.windows.has(id)) {
      const send = (message) => this.channel.postMessage({ to: id, message });
      this.windows.set(id, { send });
    }
    return this.windows.get(id);
  }

  send(message) {
    if (!this.hub) return void this.channel?.postMessage({ from: this.id, to: "hub", message });
    this.mine ||= { send: (answer) => queueMicrotask(() => this.onMessage(answer)) };
    this.hub.onMessage(this.mine, message);
  }

  stop() {
    this.silenceTimer.end();
    this.stopping?.abort();
    this.stopLeading();
    this.channel?.close();
    this.channel = null;
  }
}

export function makeLink(onMessage) {
  if (window.SharedWorker) return new WorkerLink(onMessage);
  if (window.BroadcastChannel && navigator.locks) return new LeaderLink(onMessage);
  return new OwnLink(onMessage);
}
