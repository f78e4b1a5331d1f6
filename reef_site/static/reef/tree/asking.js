// The live tree, part 1: what all its parts share. Each is a plain script that adds to `reef.tree`,
// which is null on pages without a tree; `_assets.html` loads them in this order.
"use strict";

reef.tree = (() => {
  const block = document.getElementById("fleet-tree");
  if (!block) return null;
  const byId = (id) => document.getElementById(id);
  const headers = { "Reef-Script": "1" };

  async function ask(url, options = {}) {
    const answer = await fetch(url, { ...options, headers: { ...headers, ...options.headers } });
    if (new URL(answer.url).pathname.startsWith("/signin")) {
      location.reload();
      return new Promise(() => {});
    }
    if (answer.ok && byId("tree-problem")) say("");
    return answer;
  }

  function parse(html) {
    const holder = document.createElement("template");
    holder.innerHTML = html;
    return holder.content;
  }

  async function get(url) {
    const answer = await ask(url);
    if (!answer.ok) throw new Error(`reef answered ${answer.status}`);
    return parse(await answer.text());
  }

  const token = () => JSON.parse(document.body.getAttribute("hx-headers"))["X-CSRFToken"];

  async function post(url, body) {
    const answer = await ask(url, {
      method: "POST",
      headers: { "Content-Type": "application/json", "X-CSRFToken": token() },
      body: JSON.stringify(body),
    });
    if (!answer.ok) throw new Error(`reef answered ${answer.status}`);
    return parse(await answer.text());
  }

  // Without words, what was said before is taken back, as any good answer does.
  function say(problem) {
    let place = byId("tree-problem");
    if (!place) {
      place = document.createElement("p");
      place.id = "tree-problem";
      place.className = "error";
      place.setAttribute("role", "alert");
      byId("tree-part").before(place);
    }
    place.hidden = !problem;
    place.textContent = problem;
  }

  const sayNoAnswer = () => say("reef does not answer. Try again soon.");

  return { block, urls: block.dataset, byId, ask, get, parse, post, say, sayNoAnswer };
})();
