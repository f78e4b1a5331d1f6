// The event streams of one browser, shared by all of its windows. Runs in a shared worker, or in one
// window if there are no shared workers.
//
// HTTP/1.1 allows six connections to a site, so at most MAX_STREAMS are open: one for changes in the
// fleet, and one for each open transcript. If there are more transcripts, they take turns with the
// last connection: each is read from where it stopped, and closed again.

export const MAX_STREAMS = 4;
const SILENT_AFTER = 40_000; // The server pings every 15 s.
const MAX_PAUSE = 30_000;
const MAX_TURN = 5_000;
const POLL_EVERY = 1_000;
const LOST_AFTER = 15_000;
const HEARTBEAT_EVERY = 500;

const KINDS = {
  events: ["lieutenants", "nodes", "provisionings", "questions"],
  transcript: ["entry", "delta", "status", "reload"],
};

// One streamed URL and the windows that follow it.
class Topic {
  constructor(hub, url, type) {
    Object.assign(this, { hub, url, type });
    this.followers = new Map(); // Window → number of the last change it has seen.
    this.source = null;
    this.isOpen = false;
    this.notified = new Set(); // Windows that were told that it is open.
    this.failures = 0;
    this.retry = 0;
    this.silenceTimer = 0;
    this.lastStatus = "";
    this.rev = -1;
  }

  join(window, after) {
    const missed = after !== null && after < this.rev;
    this.followers.set(window, after ?? this.rev);
    this.lastStatus = "";
    this.notified.delete(window);
    if (missed) this.close();
    else if (this.isOpen) this.announce();
  }

  remove(window) {
    this.followers.delete(window);
    this.notified.delete(window);
  }

  announce() {
    for (const window of this.followers.keys()) {
      if (!this.notified.has(window)) this.notify(window, "open");
      this.notified.add(window);
    }
  }

  notify(window, kind, data = "{}", id = null) {
    window.send({ topic: this.url, kind, data, id });
  }

  open() {
    if (this.source || this.retry) return;
    const after = Math.min(...this.followers.values());
    const source = new EventSource(this.type === "events" ? this.url : `${this.url}?after=${after}`);
    this.source = source;
    this.restartSilenceTimer();
    source.onopen = () => {
      this.failures = 0;
      this.isOpen = true;
      this.restartSilenceTimer();
      this.announce();
    };
    source.onerror = () => this.failed();
    source.addEventListener("ping", () => this.restartSilenceTimer());
    for (const kind of KINDS[this.type]) source.addEventListener(kind, (event) => this.onEvent(kind, event));
  }

  // A connection without events or pings for long is dead, even without an error.
  restartSilenceTimer() {
    clearTimeout(this.silenceTimer);
    this.silenceTimer = setTimeout(() => this.failed(), SILENT_AFTER);
  }

  onEvent(kind, event) {
    this.restartSilenceTimer();
    const id = event.lastEventId && kind !== "status" ? Number(event.lastEventId) : null;
    const repeated = kind === "status" && event.data === this.lastStatus;
    if (kind === "status") this.lastStatus = event.data;
    for (const [window, seen] of this.followers) {
      if (repeated || (id !== null && id <= seen && kind !== "reload")) continue;
      if (id !== null) this.followers.set(window, id);
      this.notify(window, kind, event.data, id);
    }
    if (id !== null) this.rev = Math.max(this.rev, id);
    // The status follows all missed events.
    if (kind === "status") this.hub.turnIsOver(this);
  }

  failed() {
    this.close();
    this.notified.clear();
    for (const window of this.followers.keys()) this.notify(window, "error");
    const pause = Math.min(1000 * 2 ** this.failures, MAX_PAUSE);
    this.failures += 1;
    this.retry = setTimeout(() => {
      this.retry = 0;
      this.hub.arrange();
    }, pause);
    this.hub.turnIsOver(this);
  }

  close() {
    clearTimeout(this.silenceTimer);
    this.source?.close();
    this.source = null;
    this.isOpen = false;
  }

  end() {
    this.close();
    clearTimeout(this.retry);
    this.retry = 0;
  }
}

export class Hub {
  constructor() {
    this.windows = new Map(); // Window → time of its last message.
    this.topics = new Map();
    this.waitingTopics = [];
    this.current = null;
    this.turnTimer = 0;
    this.heartbeatTimer = setInterval(() => this.sendHeartbeats(), HEARTBEAT_EVERY);
  }

  // Handle a message of a window: follow a topic, leave it, "alive", or "bye".
  onMessage(window, message) {
    if (message.do === "bye") return this.drop(window);
    if (!this.windows.has(window) && message.do === "alive") window.send({ kind: "lost" });
    this.windows.set(window, Date.now());
    if (message.do === "follow") this.follow(window, message);
    if (message.do === "leave") this.leave(window, message.topic);
  }

  follow(window, { topic: url, type, after }) {
    let topic = this.topics.get(url);
    // The newest topic comes last: it is the one in view.
    if (topic) this.topics.delete(url);
    else topic = new Topic(this, url, type);
    this.topics.set(url, topic);
    topic.join(window, after ?? null);
    this.arrange();
  }

  leave(window, url) {
    const topic = this.topics.get(url);
    topic?.remove(window);
    if (topic && !topic.followers.size) {
      topic.end();
      this.topics.delete(url);
    }
    this.arrange();
  }

  drop(window) {
    this.windows.delete(window);
    for (const url of [...this.topics.keys()]) this.leave(window, url);
  }

  sendHeartbeats() {
    for (const [window, heard] of this.windows) {
      if (Date.now() - heard > LOST_AFTER) this.drop(window);
      else window.send({ kind: "heartbeat" });
    }
  }

  // Assign the connections to topics.
  arrange() {
    const all = [...this.topics.values()];
    const transcripts = all.filter((topic) => topic.type === "transcript").reverse();
    const events = all.filter((topic) => topic.type === "events");
    const room = MAX_STREAMS - events.length;
    const kept = transcripts.length <= room ? transcripts : transcripts.slice(0, room - 1);
    this.waitingTopics = transcripts.filter((topic) => !kept.includes(topic));
    for (const topic of this.waitingTopics) if (topic !== this.current) topic.close();
    if (this.current && !this.waitingTopics.includes(this.current)) {
      clearTimeout(this.turnTimer);
      this.turnTimer = 0;
      this.current = null;
    }
    for (const topic of [...events, ...kept]) topic.open();
    if (this.waitingTopics.length && !this.current && !this.turnTimer) this.nextTurn();
  }

  nextTurn() {
    this.turnTimer = 0;
    const waiting = this.waitingTopics.filter((topic) => !topic.retry);
    const topic = waiting.sort((one, other) => (one.turnAt || 0) - (other.turnAt || 0))[0];
    if (!topic) return;
    topic.turnAt = Date.now();
    this.current = topic;
    topic.open();
    this.turnTimer = setTimeout(() => {
      this.turnTimer = 0;
      this.turnIsOver(topic);
    }, MAX_TURN);
  }

  turnIsOver(topic) {
    if (this.current !== topic) return;
    clearTimeout(this.turnTimer);
    this.current = null;
    topic.close();
    this.turnTimer = setTimeout(() => this.nextTurn(), Math.max(50, POLL_EVERY / this.waitingTopics.length));
  }

  end() {
    clearInterval(this.heartbeatTimer);
    clearTimeout(this.turnTimer);
    for (const topic of this.topics.values()) topic.end();
    this.topics.clear();
    this.windows.clear();
  }
}
