// A part of the page that is fetched again: soon after each change, one request at a time, and
// after failures at longer and longer intervals. The badge tells how that goes.
import { badge } from "./badge.js";
import { RequestFailed } from "./requests.js";

const LONGEST_PAUSE = 30_000;
const IN_ANY_CASE = 20_000;

// Gives `wake()`, which says that something changed; `wake.now()` also forgets failures.
// `soonest` is the least time between two runs; where the server is slow it is `slower` times the
// time that the last run took.
export function keepFresh(name, work, { soonest = 1000, slower = 8, often = IN_ANY_CASE } = {}) {
  let wanted = false;
  let running = false;
  let timer = 0;
  let failures = 0;
  let began = -Infinity;
  let ended = -Infinity;

  function due() {
    if (failures) return ended + Math.min(1000 * 2 ** (failures - 1), LONGEST_PAUSE);
    return began + Math.max(soonest, (ended - began) * slower || 0);
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

  const back = () => (often || wanted) && wake.now();
  document.addEventListener("visibilitychange", () => document.hidden || back());
  addEventListener("pageshow", (event) => event.persisted && back());
  if (often) setInterval(wake, often);
  return wake;
}
