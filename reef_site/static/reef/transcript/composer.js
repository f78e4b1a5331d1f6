// The composer: a message is sent exactly once, and drafts are kept.
import { byId, RequestFailed, showProblem } from "../core.js";
import { postForm } from "../forms.js";
import { clearImages, describeImages, imagesProblem, initImages } from "./images.js";
import { follow } from "./scrolling.js";

const SLOW_AFTER = 1000;
const page = byId("one");
const composer = byId("composer");
let lastTried = "";
let whenSent = () => {};

function newKey() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

async function send(pressed = null) {
  const text = composer.message;
  const button = byId("send");
  if (!text.value.trim() || button.disabled) return;
  const problem = imagesProblem();
  if (problem) {
    showProblem(byId("refused"), problem);
    return;
  }
  // Sending the same again repeats the message; another text or image is a new message.
  const current = `${composer.mode.value}\n${describeImages()}\n${text.value}`;
  if (lastTried && lastTried !== current) composer.key.value = newKey();
  lastTried = current;
  button.disabled = true;
  const slow = setTimeout(() => (button.textContent = "Sending…"), SLOW_AFTER);
  try {
    const { fragment, key } = await postForm(composer, pressed);
    text.value = "";
    clearImages();
    saveDraft();
    lastTried = "";
    composer.key.value = key;
    showProblem(byId("refused"));
    whenSent(fragment);
    grow();
  } catch (error) {
    if (!(error instanceof RequestFailed)) throw error;
    showProblem(byId("refused"), `${error.message} Your text is kept.`);
  } finally {
    clearTimeout(slow);
    button.textContent = "Send";
    button.disabled = false;
    text.focus();
    follow();
  }
}

// Unsent text survives a visit to another page in this tab.
const draft = `reef:draft:${page.dataset.nowUrl}`;

function saveDraft() {
  try {
    if (composer.message.value) sessionStorage.setItem(draft, composer.message.value);
    else sessionStorage.removeItem(draft);
  } catch {
    // No storage, no drafts.
  }
}

function restoreDraft() {
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

// `act` gets the fragment that the server renders after it has accepted a message.
export function initComposer(act) {
  if (!composer || byId("send").disabled) return;
  whenSent = act;
  composer.addEventListener("submit", (event) => {
    event.preventDefault();
    send(event.submitter);
  });
  composer.message.addEventListener("input", () => {
    grow();
    saveDraft();
  });
  restoreDraft();
  initImages(composer);
  composer.message.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && !event.isComposing) {
      event.preventDefault();
      send();
    }
  });
}

export const removeComposer = () => composer?.remove();
