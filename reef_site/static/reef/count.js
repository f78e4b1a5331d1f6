// The number of rows that need this person, in title and icon of every page and of the installed app.
//
// One visible window asks the server after a change, the others read its answer from the browser's
// storage. While all windows are hidden, one of them asks now and then.
import { failure, request } from "./core.js";
import { keepFresh, onEvents } from "./live.js";

const STORE = "reef-count";
const HIDDEN_EVERY = 60_000;
// A new window takes the stored number if it is at most this old.
const FRESH = 15_000;

const meta = document.querySelector("meta[name=reef-count]");
const { pathname } = new URL(meta.dataset.url, location.href);
const icon = document.querySelector("link[rel=icon]");
const plainIcon = icon.href;
const plainTitle = document.title.replace(/^\(\d+\) /, "");

function badge(count) {
  const text = count > 99 ? "99+" : String(count);
  const svg = `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32"><rect width="32" height="32" rx="8"
    fill="#0b5f63"/><circle cx="19" cy="18" r="13" fill="#c8311b"/><text x="19" y="23.5" font-family="sans-serif"
    font-weight="bold" font-size="${text.length > 2 ? 12 : 16}" text-anchor="middle" fill="#fff">${text}</text></svg>`;
  return `data:image/svg+xml,${encodeURIComponent(svg)}`;
}

function show(count) {
  const title = count ? `(${count}) ${plainTitle}` : plainTitle;
  if (document.title !== title) document.title = title;
  const href = count ? badge(count) : plainIcon;
  if (icon.href !== href) icon.href = href;
  // Only installed pages have a badge, and not in every browser.
  navigator.setAppBadge?.(count).catch(() => {});
}

// The newest number that a window of this browser got for this person, and when it asked for it.
function stored() {
  const nothing = { count: 0, at: 0 };
  try {
    const found = JSON.parse(localStorage.getItem(STORE) || "{}");
    return found.user === meta.content && found.pathname === pathname ? found : nothing;
  } catch {
    return nothing;
  }
}

function take(count, at) {
  show(count);
  try {
    localStorage.setItem(STORE, JSON.stringify({ user: meta.content, pathname, count, at }));
  } catch {
    // In a browser without storage, each window asks for itself.
  }
}

// The number that the home page shows anyway; null on other pages.
function pageCount() {
  const element = document.querySelector("#attention-count");
  return element ? Number(element.value) : null;
}

export function takePageCount() {
  const count = pageCount();
  if (count !== null) take(count, Date.now());
}

async function fetchCount(since, headers = {}) {
  const known = stored();
  if (known.at >= since) return show(known.count);
  const at = Date.now();
  const response = await request(meta.dataset.url, { headers });
  if (!response.ok) throw await failure(response);
  take((await response.json()).count, at);
}

// Locks need a secure context.
function alone(options, work) {
  return navigator.locks ? navigator.locks.request(STORE, options, work) : work(true);
}

async function ask() {
  if (pageCount() !== null) return;
  const since = Date.now();
  await alone({}, () => fetchCount(since));
}

const isFresh = () => Date.now() - stored().at < FRESH;
const wake = keepFresh("count", ask, { minInterval: 2000 });
onEvents((kind) => (kind === "open" && isFresh()) || wake());
addEventListener("storage", (event) => event.key === STORE && show(stored().count));
setInterval(() => {
  const since = Date.now() - HIDDEN_EVERY;
  const work = (lock) => lock && fetchCount(since, { "Reef-Hidden": "1" });
  if (document.hidden) alone({ ifAvailable: true }, work).catch((error) => console.warn(error.message));
}, HIDDEN_EVERY);
// The number does not stay behind in somebody else's browser.
document.querySelector("form.who")?.addEventListener("submit", () => localStorage.removeItem(STORE));

if (pageCount() !== null) takePageCount();
else show(stored().count);
