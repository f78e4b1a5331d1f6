// The composer: what is written here is sent once, and is never lost.
import { postForm, RequestFailed } from "../requests.js";
import { follow } from "./reading.js";

const SLOW_AFTER = 1000;
const byId = (id) => document.getElementById(id);
const one = byId("one");
const composer = byId("composer");
let tried = "";
let whenSent = () => {};

function newKey() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

function tell(problem) {
  const place = byId("refused");
  place.hidden = !problem;
  place.textContent = problem;
}

async function send() {
  const text = composer.message;
  const button = byId("send");
  if (!text.value.trim() || button.disabled) return;
  // The same words again are the same message; other words are another one.
  const saying = `${composer.mode.value}\n${text.value}`;
  if (tried && tried !== saying) composer.key.value = newKey();
  tried = saying;
  button.disabled = true;
  const slow = setTimeout(() => (button.textContent = "Sending…"), SLOW_AFTER);
  try {
    const { fragment, key } = await postForm(composer);
    text.value = "";
    keep();
    tried = "";
    composer.key.value = key;
    tell("");
    whenSent(fragment);
    grow();
  } catch (error) {
    if (!(error instanceof RequestFailed)) throw error;
    tell(`${error.message} Your text is kept.`);
  } finally {
    clearTimeout(slow);
    button.textContent = "Send";
    button.disabled = false;
    text.focus();
    follow();
  }
}

// Words that were not sent yet outlive a look at another page of this tab.
const draft = `reef:draft:${one.dataset.nowUrl}`;

function keep() {
  try {
    if (composer.message.value) sessionStorage.setItem(draft, composer.message.value);
    else sessionStorage.removeItem(draft);
  } catch {
    // No storage, no drafts.
  }
}

function bringBack() {
  try {
    composer.message.value ||= sessionStorage.getItem(draft) || "";
  } catch {
    // As above.
  }
  if (composer.message.value) grow();
}

function grow() {
  const text = composer.message;
  text.style.height = "auto";
  text.style.height = `${Math.min(text.scrollHeight + 2, innerHeight * 0.4)}px`;
}

// `act` gets what the server renders when a message was taken.
export function beginToSend(act) {
  if (!composer || byId("send").disabled) return;
  whenSent = act;
  composer.addEventListener("submit", (event) => {
    event.preventDefault();
    send();
  });
  composer.message.addEventListener("input", () => {
    grow();
    keep();
  });
  bringBack();
  composer.message.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && !event.isComposing) {
      event.preventDefault();
      send();
    }
  });
}

export const removeComposer = () => composer?.remove();
