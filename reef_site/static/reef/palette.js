// The palette (Ctrl+K, ⌘K) and the list of keys (?), on every page.
import { byId, isTyping, request, RequestFailed } from "./core.js";

const WAIT = 120;
const MAX_RECENT = 8;
const STORE = "reef-recent";

const palette = byId("palette");
const keysDialog = byId("keys");
const field = byId("palette-q");
const list = byId("palette-list");
const note = byId("palette-note");

// -- recent pages, in this browser -----------------------------------------------------------------

function recent() {
  try {
    const found = JSON.parse(localStorage.getItem(STORE) || "[]");
    return Array.isArray(found) ? found.filter((each) => typeof each?.url === "string" && each.url.startsWith("/")) : [];
  } catch {
    return [];
  }
}

function remember(entry) {
  const others = recent().filter((each) => each.url !== entry.url);
  try {
    localStorage.setItem(STORE, JSON.stringify([entry, ...others].slice(0, MAX_RECENT)));
  } catch {
    // A browser without storage has no recent pages.
  }
}

// -- the list --------------------------------------------------------------------------------------

let options = [];
let chosen = -1;
let timer = 0;
let asked = 0;

function choose(index) {
  options[chosen]?.removeAttribute("aria-selected");
  chosen = options.length ? (index + options.length) % options.length : -1;
  const option = options[chosen];
  option?.setAttribute("aria-selected", "true");
  option?.scrollIntoView({ block: "nearest" });
  if (option) field.setAttribute("aria-activedescendant", option.id);
  else field.removeAttribute("aria-activedescendant");
}

function optionOf(entry, id) {
  const option = document.createElement("a");
  Object.assign(option, { id, href: entry.url, role: "option", tabIndex: -1, className: "palette-entry" });
  if (entry.is_dangerous) option.classList.add("is-dangerous");
  const label = document.createElement("span");
  label.textContent = entry.label;
  const hint = document.createElement("span");
  hint.className = "soft";
  hint.textContent = entry.hint || "";
  option.append(label, hint);
  option.addEventListener("click", () => entry.is_dangerous || remember({ label: entry.label, url: entry.url, hint: entry.hint }));
  return option;
}

function show(groups) {
  list.replaceChildren();
  options = [];
  for (const group of groups) {
    const part = document.createElement("div");
    part.setAttribute("role", "group");
    part.ariaLabel = group.title;
    // A listbox may hold groups and options only.
    const title = document.createElement("div");
    title.className = "palette-title";
    title.ariaHidden = "true";
    title.textContent = group.title;
    part.append(title);
    for (const entry of group.entries) {
      const option = optionOf(entry, `palette-o${options.length}`);
      options.push(option);
      part.append(option);
    }
    list.append(part);
  }
  chosen = -1;
  choose(0);
}

async function find() {
  const number = ++asked;
  const words = field.value.trim();
  try {
    const response = await request(`${palette.dataset.url}?${new URLSearchParams({ q: words })}`);
    if (!response.ok) throw new RequestFailed(`reef answered ${response.status}.`);
    const { groups } = await response.json();
    if (number !== asked) return;
    const latest = words ? [] : recent();
    show(latest.length ? [{ title: "Recent", entries: latest }, ...groups] : groups);
    note.textContent = options.length ? "" : `Nothing matches “${words}”.`;
  } catch (error) {
    if (!(error instanceof RequestFailed)) throw error;
    note.textContent = error.message;
  }
}

function openPalette() {
  if (palette.open) return;
  keysDialog.close();
  field.value = "";
  show(recent().length ? [{ title: "Recent", entries: recent() }] : []);
  palette.showModal();
  field.focus();
  find();
}

field.addEventListener("input", () => {
  clearTimeout(timer);
  timer = setTimeout(find, WAIT);
});
field.addEventListener("keydown", (event) => {
  const steps = { ArrowDown: 1, ArrowUp: -1 };
  if (steps[event.key]) {
    event.preventDefault();
    choose(chosen + steps[event.key]);
  } else if (event.key === "Enter") {
    event.preventDefault();
    options[chosen]?.click();
  }
});
for (const dialog of [palette, keysDialog])
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());

// -- keys of every page ----------------------------------------------------------------------------

let prefix = 0;

document.addEventListener("keydown", (event) => {
  if ((event.ctrlKey || event.metaKey) && !event.altKey && event.key.toLowerCase() === "k") {
    event.preventDefault();
    return palette.open ? palette.close() : openPalette();
  }
  if (event.ctrlKey || event.metaKey || event.altKey || isTyping(event)) return;
  if (event.key === "?") {
    event.preventDefault();
    keysDialog.showModal();
  } else if (event.key === "/") {
    const search = document.querySelector("main input[type=search]");
    if (!search) return;
    event.preventDefault();
    search.focus();
  } else if (event.key === "g") {
    prefix = Date.now();
  } else if (event.key === "h" && Date.now() - prefix < 1500) {
    document.querySelector(".mark").click();
  }
});
document.addEventListener("click", (event) => event.target.closest("[data-palette]") && openPalette());
// Names of lieutenants do not stay behind in somebody else's browser.
document.querySelector("form.who")?.addEventListener("submit", () => localStorage.removeItem(STORE));

const title = document.querySelector("main h1")?.textContent.trim();
if (title && document.querySelector("[data-recent]")) remember({ label: title.slice(0, 80), url: location.pathname, hint: "" });

// The offline page. Without a secure context there are no service workers.
navigator.serviceWorker?.register(document.documentElement.dataset.worker).catch((error) => console.warn(error.message));
