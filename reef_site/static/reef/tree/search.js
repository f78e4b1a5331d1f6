// The live tree, part 4: searching, which is the whole tree anew as the address says.
"use strict";

if (reef.tree) (() => {
  const { block, urls, byId, ask, parse, say, sayNoAnswer, tree, focus } = reef.tree;
  const query = () => new URLSearchParams(location.search);

  // The row that had the focus has it again.
  async function refill() {
    const answer = await ask(`${urls.treeUrl}?${query()}`).catch(() => null);
    if (!answer || (answer.status !== 400 && !answer.ok)) return sayNoAnswer();
    say("");
    const focused = tree()?.contains(document.activeElement) ? document.activeElement.id : "";
    byId("tree-part").replaceChildren(parse(await answer.text()));
    byId("tree-q").toggleAttribute("aria-invalid", answer.status === 400);
    if (focused) focus(byId(focused) || tree()?.firstElementChild);
    reef.tick();
  }

  async function search(words) {
    const url = words ? `?${new URLSearchParams({ q: words })}` : urls.pageUrl;
    history.pushState(null, "", url);
    await refill();
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
    refill();
  });

  reef.tree.refill = refill;
})();
