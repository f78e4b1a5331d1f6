// The live tree: unfolds by fetching, is moved through with the keyboard, keeps itself up to date.
//
// Rows lie flat, one after the other, with their level in aria-level: so a chain of thousands is
// no deep document. A row's element stays for as long as its VM is shown; only its inside changes.
"use strict";

(() => {
  const block = document.getElementById("fleet-tree");
  if (!block) return;
  const byId = (id) => document.getElementById(id);
  const urls = block.dataset;
  const beside = byId("beside");
  const headers = { "Reef-Script": "1" };
  const MOST_CHANGED = 200;
  const SOONEST = 250;
  const IN_ANY_CASE = 20000;

  const tree = () => byId("tree");
  const level = (row) => Number(row.getAttribute("aria-level"));
  const isOpen = (row) => row.getAttribute("aria-expanded") === "true";
  const isFolder = (row) => row.hasAttribute("aria-expanded");
  const rowOf = (key) => byId(`n${key}`);

  // -- asking ---------------------------------------------------------------------------------

  async function ask(url, options = {}) {
    const answer = await fetch(url, { ...options, headers: { ...headers, ...options.headers } });
    if (new URL(answer.url).pathname.startsWith("/signin")) {
      location.reload();
      return new Promise(() => {});
    }
    return answer;
  }

  async function get(url) {
    const answer = await ask(url);
    if (!answer.ok) throw new Error(`reef answered ${answer.status}`);
    return parse(await answer.text());
  }

  function parse(html) {
    const holder = document.createElement("template");
    holder.innerHTML = html;
    return holder.content;
  }

  const token = () => JSON.parse(document.body.getAttribute("hx-headers"))["X-CSRFToken"];

  // -- rows -----------------------------------------------------------------------------------

  function next(row) {
    let other = row.nextElementSibling;
    while (other && other.hidden) other = other.nextElementSibling;
    return other;
  }

  function previous(row) {
    let other = row.previousElementSibling;
    while (other && other.hidden) other = other.previousElementSibling;
    return other;
  }

  // All rows below this one that are in the page, shown or folded away.
  function below(row) {
    const found = [];
    for (let each = row.nextElementSibling; each && level(each) > level(row); each = each.nextElementSibling)
      found.push(each);
    return found;
  }

  const childrenOf = (row) => below(row).filter((each) => level(each) === level(row) + 1);

  function parentOf(row) {
    let other = row.previousElementSibling;
    while (other && level(other) >= level(row)) other = other.previousElementSibling;
    return other;
  }

  // A fold hides what was fetched, and shows it again with what was unfolded inside.
  function paint(row) {
    let shut = isOpen(row) ? Infinity : level(row);
    for (const each of below(row)) {
      each.hidden = level(each) > shut;
      if (each.hidden) continue;
      shut = isFolder(each) && !isOpen(each) ? level(each) : Infinity;
    }
  }

  // Of an earlier moment there are no news.
  const moment = urls.at ? { at: urls.at } : {};
  const childrenUrl = (key, words) =>
    `${urls.childrenUrl}${key}?${new URLSearchParams({ ...moment, ...words })}`;

  async function unfold(row) {
    if (!isFolder(row) || isOpen(row)) return;
    row.setAttribute("aria-expanded", "true");
    if (row.dataset.loaded || childrenOf(row).length) return paint(row);
    row.setAttribute("aria-busy", "true");
    try {
      const fragment = await get(childrenUrl(row.dataset.key, { level: level(row) + 1 }));
      if (!childrenOf(row).length) row.after(...fragment.children);
      row.dataset.loaded = "1";
      paint(row);
      reef.tick();
    } catch {
      row.setAttribute("aria-expanded", "false");
      say("reef does not answer. Try again soon.");
    }
    row.removeAttribute("aria-busy");
  }

  function fold(row) {
    if (!isOpen(row) || row.dataset.key === "0") return;
    const inside = below(row).includes(document.activeElement);
    row.setAttribute("aria-expanded", "false");
    // What a search left out comes when it is unfolded again.
    if ("filtered" in tree().dataset && !row.dataset.loaded) below(row).forEach((each) => each.remove());
    paint(row);
    if (inside) focus(row);
  }

  async function more(row) {
    if (row.getAttribute("aria-busy")) return;
    row.setAttribute("aria-busy", "true");
    const { parent, after, place } = row.dataset;
    try {
      const fragment = await get(childrenUrl(parent, { after, place, level: level(row) }));
      const fresh = [...fragment.children].filter((each) => !each.dataset.key || !rowOf(each.dataset.key));
      const had = document.activeElement === row;
      row.replaceWith(...fresh);
      if (had && fresh.length) focus(fresh[0]);
      reef.tick();
    } catch {
      row.removeAttribute("aria-busy");
      say("reef does not answer. Try again soon.");
    }
  }

  // -- the keyboard ---------------------------------------------------------------------------

  function focus(row) {
    if (!row) return;
    for (const each of tree().querySelectorAll('[tabindex="0"]')) each.tabIndex = -1;
    row.tabIndex = 0;
    row.focus();
    row.scrollIntoView({ block: "nearest" });
  }

  function last() {
    let row = tree().lastElementChild;
    while (row && row.hidden) row = previous(row);
    return row;
  }

  let typed = "";
  let typedAt = 0;

  // Letters go to the next row whose name begins with them.
  function seek(row, letter) {
    typed = performance.now() - typedAt > 800 ? letter : typed + letter;
    typedAt = performance.now();
    const begins = (each) =>
      each.querySelector(".vm-name")?.textContent.trim().toLowerCase().startsWith(typed.toLowerCase());
    const rows = [...tree().children].filter((each) => !each.hidden);
    const at = rows.indexOf(row) + (typed.length > 1 ? 0 : 1);
    focus([...rows.slice(at), ...rows.slice(0, at)].find(begins));
  }

  const keys = {
    ArrowDown: (row) => focus(next(row)),
    ArrowUp: (row) => focus(previous(row)),
    ArrowRight: (row) => (isOpen(row) ? focus(childrenOf(row)[0]) : unfold(row)),
    ArrowLeft: (row) => (isOpen(row) && row.dataset.key !== "0" ? fold(row) : focus(parentOf(row))),
    Home: () => focus(tree().firstElementChild),
    End: () => focus(last()),
    Enter: (row) => act(row),
    " ": (row) => (isOpen(row) ? fold(row) : unfold(row)),
  };

  function act(row) {
    if (row.classList.contains("more")) more(row);
    else if (row.dataset.key !== "0") show(row, true);
  }

  block.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && !beside.hidden) return close();
    const row = event.target.closest('[role="treeitem"]');
    if (!row || event.ctrlKey || event.metaKey || event.altKey) return;
    if (keys[event.key]) {
      event.preventDefault();
      keys[event.key](row);
    } else if (event.key.length === 1) {
      seek(row, event.key);
    }
  });

  block.addEventListener("click", (event) => {
    if (event.ctrlKey || event.metaKey || event.shiftKey || event.button) return;
    const link = event.target.closest("a[data-beside]");
    const row = event.target.closest('[role="treeitem"]');
    if (event.target.closest("[data-close]")) return close();
    if (link) {
      event.preventDefault();
      fill(link.dataset.beside);
    }
    if (!row) return;
    event.preventDefault();
    focus(row);
    if (event.target.closest(".twist") || row.dataset.key === "0") isOpen(row) ? fold(row) : unfold(row);
    else act(row);
  });

  // -- one VM at the side -----------------------------------------------------------------------

  let shown = "";
  let from = null;

  function show(row, byHand) {
    for (const each of tree().querySelectorAll('[aria-selected="true"]')) each.setAttribute("aria-selected", "false");
    row.setAttribute("aria-selected", "true");
    from = row;
    return fill(`${urls.pageUrl}${row.dataset.key}/_facts`, byHand);
  }

  async function fill(url, byHand = true) {
    shown = url;
    try {
      const fragment = await get(url);
      if (shown !== url) return;
      const had = beside.contains(document.activeElement) ? document.activeElement : null;
      if (!byHand && had?.matches("input")) return; // Somebody is writing there.
      beside.replaceChildren(fragment);
      beside.hidden = false;
      block.classList.add("has-beside");
      if (had) beside.focus({ preventScroll: true });
      if (byHand) beside.scrollTop = 0;
      reef.tick();
    } catch {
      say("reef does not answer. Try again soon.");
    }
  }

  function close() {
    beside.hidden = true;
    shown = "";
    block.classList.remove("has-beside");
    from?.setAttribute("aria-selected", "false");
    focus(from?.isConnected ? from : tree()?.firstElementChild);
  }

  block.addEventListener("submit", (event) => {
    const form = event.target;
    const words = new URLSearchParams(new FormData(form));
    if (form.matches(".compare")) {
      event.preventDefault();
      fill(`${form.dataset.beside}?${words}`);
    } else if (form.id === "tree-search" && location.pathname === new URL(urls.pageUrl, location).pathname) {
      event.preventDefault();
      search(form.q.value.trim());
    }
  });

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

  // -- searching ----------------------------------------------------------------------------------

  const query = () => new URLSearchParams(location.search);

  async function search(words, push = true) {
    const url = words ? `?${new URLSearchParams({ q: words })}` : urls.pageUrl;
    if (push) history.pushState(null, "", url);
    await refill();
  }

  // The whole tree anew, as the address says. The row that had the focus has it again.
  async function refill() {
    const answer = await ask(`${urls.treeUrl}?${query()}`).catch(() => null);
    if (!answer || (answer.status !== 400 && !answer.ok)) return say("reef does not answer. Try again soon.");
    say("");
    const focused = tree()?.contains(document.activeElement) ? document.activeElement.id : "";
    byId("tree-part").replaceChildren(parse(await answer.text()));
    byId("tree-q").toggleAttribute("aria-invalid", answer.status === 400);
    if (focused) focus(byId(focused) || tree()?.firstElementChild);
    reef.tick();
  }

  addEventListener("popstate", () => {
    if (urls.at) return;
    byId("tree-q").value = query().get("q") || "";
    refill();
  });

  // -- news ---------------------------------------------------------------------------------------

  // Ids of which news came; null is "many". Rows remember the last news that they were asked for.
  let changed = new Set();
  let newest = 0;
  let timer = 0;
  let last_at = 0;
  let took = 0;
  let asking = false;
  let handled = false; // Whether the reader unfolded something in a search's result.

  function onNews(ids) {
    newest += 1;
    if (ids && changed) ids.forEach((id) => changed.add(id));
    if (!ids || (changed && changed.size > MOST_CHANGED)) changed = null;
    soon();
  }

  // At most four times a second, less often where the server is slow; the last is never missed.
  function soon() {
    if (timer || asking || document.hidden || urls.at) return;
    const pause = Math.max(SOONEST, took * 4);
    timer = setTimeout(refresh, Math.max(20, last_at + pause - performance.now()));
  }

  async function refresh() {
    timer = 0;
    if (!tree() || document.hidden) return;
    const ids = changed;
    changed = new Set();
    asking = true;
    last_at = performance.now();
    try {
      if ("filtered" in tree().dataset && !handled) await refill();
      else await renew(ids);
      if (shown && (!ids || [...ids].some((id) => from?.dataset.vm === id))) await fill(shown, false);
    } catch {
      changed = null;
    }
    took = performance.now() - last_at;
    asking = false;
    if (!changed || changed.size) soon();
  }

  // Rows that can be seen now, or by little scrolling.
  function inSight() {
    const found = [];
    for (const row of tree().children) {
      if (row.hidden || !row.dataset.key) continue;
      const { top, bottom } = row.getBoundingClientRect();
      if (bottom > -200 && top < innerHeight + 200) found.push(row);
    }
    return found.slice(0, 300);
  }

  async function renew(ids) {
    const rows = inSight();
    const roof = rowOf(0);
    const asked = rows.map((row) => Number(row.dataset.key));
    if (!rows.includes(roof)) asked.push(0);
    const body = { shown: asked, also: [0, ...keysAbove(ids)], changed: [...(ids || [])], many: !ids };
    const mark = newest;
    const answer = await ask(urls.newsUrl, {
      method: "POST",
      headers: { "Content-Type": "application/json", "X-CSRFToken": token() },
      body: JSON.stringify(body),
    });
    if (!answer.ok) throw new Error(`reef answered ${answer.status}`);
    const reshaped = [];
    for (const fresh of parse(await answer.text()).children) {
      if (fresh.dataset.gone) remove(rowOf(fresh.dataset.gone));
      else if (swap(rowOf(fresh.dataset.key), fresh)) reshaped.push(rowOf(fresh.dataset.key));
    }
    for (const row of rows) row.dataset.news = mark;
    if (!tree().querySelector('[tabindex="0"]')) roof.tabIndex = 0;
    reef.tick();
    for (const row of reshaped) await reshape(row);
  }

  // Where a VM that is shown hangs now: if it moves away, these change, too.
  function keysAbove(ids) {
    const found = new Set();
    for (const row of tree().children) {
      if (!ids?.has(row.dataset.vm)) continue;
      for (let each = parentOf(row); each; each = parentOf(each)) found.add(Number(each.dataset.key));
    }
    return [...found].slice(0, 200);
  }

  // Give a row its new inside; true if other rows hang below it than before.
  function swap(row, fresh) {
    if (!row) return false;
    const differs = row.dataset.shape !== fresh.dataset.shape;
    row.dataset.shape = fresh.dataset.shape;
    if (row.innerHTML !== fresh.innerHTML) row.replaceChildren(...fresh.childNodes);
    if (!isFolder(fresh)) row.removeAttribute("aria-expanded");
    else if (!isFolder(row)) row.setAttribute("aria-expanded", "false");
    return differs;
  }

  function remove(row) {
    if (!row) return;
    const rows = [row, ...below(row)];
    const had = rows.find((each) => each.contains(document.activeElement));
    const other = had && (previous(row) || rowOf(0));
    rows.forEach((each) => each.remove());
    if (had) focus(other);
  }

  // Bring the children of an unfolded row to what they are now; those that stay keep their element.
  async function reshape(row) {
    const filtered = "filtered" in tree().dataset;
    if (!row.isConnected || filtered || (row.dataset.key === "0" && "top" in tree().dataset)) return;
    const old = childrenOf(row);
    if (!isOpen(row)) {
      below(row).forEach((each) => each.remove());
      delete row.dataset.loaded;
      return;
    }
    const limit = Math.max(50, old.filter((each) => each.dataset.key).length);
    const fragment = await get(childrenUrl(row.dataset.key, { limit, level: level(row) + 1 }));
    const fresh = [...fragment.children];
    const kept = new Set(fresh.map((each) => each.id));
    old.filter((each) => !kept.has(each.id)).forEach(remove);
    let before = row;
    for (const each of fresh) before = settle(each, before, row);
    paint(row);
    reef.tick();
  }

  // Put a child behind `before`; the last row of what then belongs to it.
  function settle(fresh, before, parent) {
    let mine = byId(fresh.id);
    if (mine && (mine.classList.contains("more") || parentOf(mine) !== parent)) {
      remove(mine);
      mine = null;
    }
    if (mine) {
      for (const name of ["aria-setsize", "aria-posinset"]) mine.setAttribute(name, fresh.getAttribute(name));
      swap(mine, fresh);
    } else {
      mine = fresh;
    }
    const inside = mine.isConnected ? below(mine) : [];
    if (mine.previousElementSibling !== before) before.after(mine, ...inside);
    return inside.at(-1) || mine;
  }

  // Rows that come into sight are asked for the news that they missed.
  let settling = 0;
  addEventListener("scroll", () => {
    clearTimeout(settling);
    settling = setTimeout(() => {
      if (tree() && inSight().some((row) => Number(row.dataset.news || 0) < newest)) onNewsMissed();
    }, 200);
  }, { passive: true, capture: true });

  function onNewsMissed() {
    changed = null;
    soon();
  }

  byId("node-news")?.addEventListener("htmx:sseBeforeMessage", (event) => {
    event.preventDefault();
    event.stopPropagation(); // The lieutenants' part of the page need not know.
    const news = JSON.parse(event.detail.data);
    onNews(news.many ? null : news.ids);
  });
  document.addEventListener("htmx:sseOpen", () => onNews(null));
  document.addEventListener("visibilitychange", () => document.hidden || onNews(null));
  setInterval(() => onNews(null), IN_ANY_CASE);

  block.addEventListener("click", (event) => {
    if (event.target.closest('[role="tree"]')) handled = true;
  });
  block.addEventListener("keydown", (event) => {
    if (event.key === "ArrowRight" || event.key === " ") handled = true;
  });
})();

// The picture: drawn anew for the room that there is, and when something changed.
(() => {
  const part = document.getElementById("picture-part");
  if (!part) return;
  let timer = 0;

  async function draw() {
    timer = 0;
    if (document.hidden) return;
    const url = new URL(part.dataset.url, location);
    url.searchParams.set("width", Math.floor(part.clientWidth));
    const answer = await fetch(url, { headers: { "Reef-Script": "1" } }).catch(() => null);
    if (!answer?.ok || answer.redirected) return;
    const holder = document.createElement("template");
    holder.innerHTML = await answer.text();
    part.replaceChildren(holder.content);
  }

  const soon = (pause) => (timer ||= setTimeout(draw, pause));

  document.getElementById("node-news").addEventListener("htmx:sseBeforeMessage", (event) => {
    event.preventDefault();
    event.stopPropagation();
    soon(2000);
  });
  document.addEventListener("htmx:sseOpen", () => soon(2000));
  document.addEventListener("visibilitychange", () => soon(50));
  setInterval(() => soon(50), 20000);
  let width = 0;
  new ResizeObserver(() => {
    if (Math.abs(part.clientWidth - width) < 8) return;
    width = part.clientWidth;
    soon(50);
  }).observe(part);
})();

// The slider says its moment while it is moved, and goes there when it is let go.
(() => {
  const slider = document.getElementById("second");
  if (!slider) return;
  const says = document.getElementById("slider-says");
  slider.addEventListener("input", () => {
    const at = new Date((Number(slider.dataset.first) + Number(slider.value)) * 1000);
    says.textContent = at.toLocaleString();
  });
  slider.addEventListener("change", () => slider.form.requestSubmit());
})();
