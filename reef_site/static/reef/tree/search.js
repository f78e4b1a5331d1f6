// Searching: the whole tree is fetched again for the query in the page's URL.
import { byId, failure, parse, request } from "../core.js";
import { morphChildren } from "../swap.js";
import { tick } from "../times.js";
import { block, showProblem, showFailure, urls } from "./common.js";
import { focus, tree } from "./rows.js";

const query = () => new URLSearchParams(location.search);

// The focus stays on its row.
export async function refill() {
  const response = await request(`${urls.treeUrl}?${query()}`);
  if (response.status !== 400 && !response.ok) throw await failure(response);
  showProblem();
  const focused = tree()?.contains(document.activeElement) ? document.activeElement.id : "";
  morphChildren(byId("tree-part"), parse(await response.text()));
  byId("tree-q").toggleAttribute("aria-invalid", response.status === 400);
  if (focused) focus(byId(focused) || tree()?.firstElementChild);
  tick();
}

async function search(text) {
  const url = text ? `?${new URLSearchParams({ q: text })}` : urls.pageUrl;
  history.pushState(null, "", url);
  await refill().catch(showFailure);
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
  refill().catch(showFailure);
});
