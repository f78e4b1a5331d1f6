// Comments on lines, until they are sent: kept in this browser, by person and lieutenant.
//
// A comment is {id, repository, path, side, line, quote, text}; `draft` is the one being written.
const listeners = [];
let name = "";
let state = empty();
let isLost = false;

function empty() {
  return { key: newId(), comments: [], draft: null };
}

// `crypto.randomUUID` needs HTTPS.
export function newId() {
  return [...crypto.getRandomValues(new Uint8Array(12))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

function load() {
  try {
    const found = JSON.parse(localStorage.getItem(name));
    state = Array.isArray(found?.comments) ? found : empty();
  } catch {
    state = empty();
  }
}

function save() {
  try {
    localStorage.setItem(name, JSON.stringify(state));
    isLost = false;
  } catch {
    // A private window, or no room.
    isLost = true;
  }
}

const tell = () => listeners.forEach((listener) => listener());

function change(work) {
  work();
  // What is sent under one key never differs.
  state.key = newId();
  save();
  tell();
}

export function openStore(given) {
  name = given;
  load();
  // Another window of this browser has changed them.
  addEventListener("storage", (event) => {
    if (event.key !== name) return;
    load();
    tell();
  });
}

export const onChange = (listener) => listeners.push(listener);
export const all = () => state.comments;
export const key = () => state.key;
export const draft = () => state.draft;
// Whether a reload of the page would lose the comments.
export const isUnsaved = () => isLost;

const samePlace = (one, other) =>
  one.path === other.path && one.repository === other.repository && one.side === other.side && one.line === other.line &&
  one.quote === other.quote;
export const at = (place) => state.comments.find((each) => samePlace(each, place));

export function put(place, text) {
  change(() => {
    const known = at(place);
    if (known) known.text = text;
    else state.comments.push({ id: newId(), ...place, text });
    state.draft = null;
  });
}

// Keep what is being written, without redrawing.
export function keepDraft(place, text) {
  state.draft = text.trim() ? { ...place, text } : null;
  save();
}

export function dropDraft() {
  state.draft = null;
  save();
}

export const remove = (id) =>
  change(() => {
    state.comments = state.comments.filter((each) => each.id !== id);
  });
export const removeAll = (ids) =>
  change(() => {
    state.comments = state.comments.filter((each) => !ids.includes(each.id));
  });
export const clear = () => change(() => (state = empty()));
