// Searching: the whole tree is fetched again for the query in the page's URL.
import { byId, failure, parse, request } from "../core.js";
import { morphChildren } from "../swap.js";
import { tick } from "../times.js";
import { block, showProblem, showFailure, urls } from "./common.js";
import { focus, tree } from "./rows.js";
import { isOwnPage, query, urlWith } from "./state.js";

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

async function go(url) {
  history.pushState(null, "", url);
  await refill().catch(showFailure);
}

const search = (text) => go(urlWith({ q: text, under: "", after: "", place: "" }));

block.addEventListener("submit", (event) => {
  const form = event.target;
  // On other pages the form opens the tree's page.
  if (form.id !== "tree-search" || !isOwnPage()) return;
  event.preventDefault();
  search(form.q.value.trim());
});

// Another order keeps what is open.
block.addEventListener("click", (event) => {
  const link = event.target.closest("a[data-sort]");
  if (!link || !isOwnPage() || event.ctrlKey || event.metaKey || event.shiftKey || event.button) return;
  event.preventDefault();
  go(urlWith({ sort: new URL(link.href).searchParams.get("sort"), after: "", place: "" }));
});

addEventListener("popstate", () => {
  if (urls.at) return;
  byId("tree-q").value = query().get("q") || "";
  refill().catch(showFailure);
});
