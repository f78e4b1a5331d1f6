// Searching in the live tree, which is the whole tree anew as the address says.
import { tick } from "../base.js";
import { ask, failure, parse } from "../requests.js";
import { block, byId, say, sayFailure, urls } from "./asking.js";
import { focus, tree } from "./rows.js";

const query = () => new URLSearchParams(location.search);

// The row that had the focus has it again.
export async function refill() {
  const answer = await ask(`${urls.treeUrl}?${query()}`);
  if (answer.status !== 400 && !answer.ok) throw await failure(answer);
  say("");
  const focused = tree()?.contains(document.activeElement) ? document.activeElement.id : "";
  byId("tree-part").replaceChildren(parse(await answer.text()));
  byId("tree-q").toggleAttribute("aria-invalid", answer.status === 400);
  if (focused) focus(byId(focused) || tree()?.firstElementChild);
  tick();
}

async function search(words) {
  const url = words ? `?${new URLSearchParams({ q: words })}` : urls.pageUrl;
  history.pushState(null, "", url);
  await refill().catch(sayFailure);
}

block.addEventListener("submit", (event) => {
  const form = event.target;
  // On other pages the form leads to the tree's own.
  const here = location.pathname === new URL(urls.pageUrl, location).pathname;
  if (form.id !== "tree-search" || !here) return;
  event.preventDefault();
  search(form.q.value.trim());
});

addEventListener("popstate", () => {
  if (urls.at) return;
  byId("tree-q").value = query().get("q") || "";
  refill().catch(sayFailure);
});
