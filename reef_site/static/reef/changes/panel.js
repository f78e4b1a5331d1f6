// The panel with all comments, which are sent as one message.
import { byId, csrfToken, failure, request, showFailure, showProblem } from "../core.js";
import * as store from "./store.js";

const panel = byId("comments");
const LOST = "This browser keeps no data: comments are lost when the page is closed.";

function item(comment) {
  const made = byId("mould-comment").content.firstElementChild.cloneNode(true);
  const folder = comment.repository ? `${comment.repository}/` : "";
  made.querySelector(".path").textContent = `${folder}${comment.path}:${comment.line}${comment.side === "old" ? " (removed)" : ""}`;
  made.querySelector("q").textContent = comment.quote;
  made.querySelector(".said").textContent = comment.text;
  const button = made.querySelector("button");
  button.ariaLabel = `Discard the comment on line ${comment.line} of ${comment.path}`;
  button.addEventListener("click", () => store.remove(comment.id));
  return made;
}

function paint() {
  const all = store.all();
  panel.hidden = !all.length;
  byId("comment-count").textContent = all.length;
  byId("comment-list").replaceChildren(...all.map(item));
  if (all.length && store.isUnsaved()) showProblem(byId("problem"), LOST);
}

async function send(event) {
  const button = event.currentTarget;
  if (button.ariaDisabled === "true") return;
  button.ariaDisabled = "true";
  try {
    const given = store.all();
    const body = new URLSearchParams({ comments: JSON.stringify(given), key: store.key() });
    const headers = { "X-CSRFToken": csrfToken() };
    const response = await request(panel.dataset.url, { method: "POST", body, headers });
    if (!response.ok) throw await failure(response);
    showProblem(byId("problem"));
    // Others may have been written while these were sent.
    store.removeAll(given.map((each) => each.id));
    byId("sent").hidden = false;
  } catch (error) {
    showFailure(byId("problem"), error);
  } finally {
    button.ariaDisabled = null;
  }
}

export function initPanel() {
  if (!panel) return;
  store.openStore(panel.dataset.store);
  store.onChange(paint);
  store.onChange(() => {
    if (store.all().length) byId("sent").hidden = true;
  });
  byId("send-comments").addEventListener("click", send);
  byId("drop-comments").addEventListener("click", () => store.clear());
  paint();
}
