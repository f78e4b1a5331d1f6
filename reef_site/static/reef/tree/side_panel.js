// The side panel of the live tree, which shows one VM.
import { byId } from "../core.js";
import { unselected } from "../selection.js";
import { morphChildren } from "../swap.js";
import { tick } from "../times.js";
import { block, get, showFailure, urls } from "./common.js";
import { focus, rowOf, tree } from "./rows.js";
import { change, isOwnPage, query } from "./state.js";

const panel = byId("beside");
let shown = "";
let from = null;

// URL of the panel: derived from a node's key, else given by the row.
const factsUrl = (row) => row.dataset.facts || `${urls.pageUrl}${row.dataset.key}/_facts`;

export function show(row, byHand) {
  for (const each of tree().querySelectorAll('[aria-selected="true"]')) each.setAttribute("aria-selected", "false");
  row.setAttribute("aria-selected", "true");
  from = row;
  return fill(factsUrl(row), byHand);
}

export async function fill(url, byHand = true) {
  shown = url;
  try {
    const fragment = await get(url);
    if (shown !== url) return;
    const hadFocus = panel.contains(document.activeElement);
    if (byHand) panel.replaceChildren(fragment);
    else morphChildren(panel, fragment);
    panel.hidden = false;
    block.classList.add("has-beside");
    if (hadFocus && !panel.contains(document.activeElement)) panel.focus({ preventScroll: true });
    if (byHand) {
      panel.scrollTop = 0;
      remember(url);
    }
    tick();
  } catch (error) {
    if (!byHand) throw error;
    showFailure(error);
  }
}

// The URL remembers the VM: a node by its key.
function remember(url) {
  const { pathname, searchParams } = new URL(url, location);
  const key = pathname.match(/([0-9]+)\/_facts$/)?.[1];
  change({ vm: key, registered: key ? "" : searchParams.get("vm") });
}

function restore() {
  const [key, id] = [query().get("vm"), query().get("registered")];
  if (!isOwnPage() || (!/^[0-9]+$/.test(key || "") && !id)) return;
  const row = id ? tree()?.querySelector(`[data-vm="${CSS.escape(id)}"]`) : tree() && rowOf(key);
  if (row) return void show(row, true);
  fill(id ? `${urls.pageUrl}registered/_facts?${new URLSearchParams({ vm: id })}` : `${urls.pageUrl}${key}/_facts`);
}

export function close() {
  panel.hidden = true;
  shown = "";
  change({ vm: "", registered: "" });
  block.classList.remove("has-beside");
  from?.setAttribute("aria-selected", "false");
  focus(from?.isConnected ? from : tree()?.firstElementChild);
}

// These ids changed (null: many); fetch the panel again if its VM is among them.
export async function refresh(ids) {
  if (!shown || (ids && !ids.has(from?.dataset.vm))) return;
  await unselected(panel);
  try {
    await fill(shown, false);
  } catch (error) {
    if (error.status !== 404) throw error;
    shown = ""; // The VM is gone; its last facts stay visible.
  }
}

block.addEventListener("submit", (event) => {
  const form = event.target;
  if (!form.matches(".compare")) return;
  event.preventDefault();
  fill(`${form.dataset.beside}?${new URLSearchParams(new FormData(form))}`);
});

block.addEventListener("keydown", (event) => {
  if (event.key !== "Escape" || panel.hidden) return;
  event.stopImmediatePropagation();
  close();
});

restore();
