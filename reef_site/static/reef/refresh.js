// Refresh a part of the page: soon after each change, one request at a time, with growing intervals
// after failures. The badge shows problems.
import { badge } from "./badge.js";
import { RequestFailed } from "./requests.js";

const MAX_PAUSE = 30_000;
const DEFAULT_INTERVAL = 20_000;

// Returns `wake()`, to be called after a change; `wake.now()` also resets failures. `soonest` is the
// shortest time between two runs in milliseconds; if the server is slow, it is `slower` times the
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
    const done = badge.fetching(name);
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
