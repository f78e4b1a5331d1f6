// Shows what the server has to tell this person as notifications of the browser, and reports that a
// page is in front of them.
//
// A visible page asks for itself. Of the hidden ones only one does, which holds a lock.
import { csrfToken } from "./core.js";

const meta = document.querySelector("meta[name=reef-notify]");
const root = document.documentElement;
const EVERY = 30_000;
const FIRST = 1_500;
const showsNotices = meta.content === "browser" && "Notification" in window;
let timer = 0;

async function show({ title, path, kind }) {
  const options = { tag: `${kind} ${path}`, icon: document.querySelector("link[rel=icon]").href, data: { path } };
  // Phones show notifications of a service worker only.
  const worker = await navigator.serviceWorker?.getRegistration();
  if (worker?.active) return worker.showNotification(title, options);
  const notice = new Notification(title, options);
  notice.onclick = () => {
    window.focus();
    location.href = path;
    notice.close();
  };
}

// Without permission nothing is fetched, so that it waits for a browser that shows it.
const maySee = () => showsNotices && Notification.permission === "granted";

async function ask() {
  const visible = document.visibilityState === "visible";
  if (!visible && !maySee()) return;
  const body = new URLSearchParams({ visible: visible ? "1" : "0", show: maySee() ? "1" : "0" });
  // A redirect leads to the sign-in.
  const answer = { method: "POST", headers: { "X-CSRFToken": csrfToken() }, body, redirect: "manual" };
  const response = await fetch(meta.dataset.url, { ...answer, signal: AbortSignal.timeout(20_000) });
  if (!response.ok) return;
  const { notices } = await response.json();
  for (const each of notices) await show(each).catch(reportError);
}

function askSoon(delay) {
  clearTimeout(timer);
  timer = setTimeout(async () => {
    try {
      if (!document.hidden || !navigator.locks) await ask();
      else await navigator.locks.request(`reef-notify-${root.dataset.signin}`, { ifAvailable: true }, (lock) => lock && ask());
    } catch (error) {
      // The server is away, or slow: the next attempt is due anyway.
      if (!(error instanceof TypeError) && error.name !== "TimeoutError") reportError(error);
    }
    askSoon(EVERY);
  }, delay);
}

document.addEventListener("visibilitychange", () => document.hidden || askSoon(FIRST));
askSoon(FIRST);
