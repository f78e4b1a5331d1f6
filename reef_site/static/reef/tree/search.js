// Searching: the whole tree is fetched again for the query in the page's URL.
import { tick } from "../base.js";
import { ask, failure, parse } from "../requests.js";
import { block, byId, say, sayFailure, urls } from "./asking.js";
import { focus, tree } from "./rows.js";

const query = () => new URLSearchParams(location.search);

// The focus stays on its row.
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
  // On other pages the form opens the tree's page.
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
