// One lieutenant's page: the transcript as it comes, the facts when they change, the composer.
//
// What is being said is appended as plain text; what is final is fetched as the server renders it.
"use strict";

(() => {
  const one = document.getElementById("one");
  if (!one) return;
  const byId = (id) => document.getElementById(id);
  const headers = { "Reef-Script": "1" };

  // -- reading on ---------------------------------------------------------------------------

  const newest = byId("newest");
  const foot = byId("foot");

  let pinned = true;
  let lastY = scrollY;

  // Where the page must be scrolled to for the transcript's end to be in sight. The foot sticks to
  // the window's edge, so its column is measured; on small screens the facts come below it.
  const end = () =>
    Math.max(0, foot.parentElement.getBoundingClientRect().bottom + scrollY - innerHeight);

  function follow() {
    if (pinned) scrollTo({ top: end(), behavior: "instant" });
    newest.hidden = pinned;
  }

  addEventListener("scroll", () => {
    const near = Math.abs(scrollY - end()) < 48;
    // Only the reader moves up or past the end; the page itself moves to the end.
    if (near) pinned = true;
    else if (scrollY < lastY || scrollY > end()) pinned = false;
    lastY = scrollY;
    newest.hidden = pinned;
  }, { passive: true });
  newest.addEventListener("click", () => {
    pinned = true;
    follow();
  });

  // -- fragments ------------------------------------------------------------------------------

  async function get(url) {
    const answer = await fetch(url, { headers });
    if (answer.redirected) return signedOut();
    if (!answer.ok) throw new Error(await answer.text());
    return parse(await answer.text());
  }

  function parse(html) {
    const holder = document.createElement("template");
    holder.innerHTML = html;
    return holder.content;
  }

  function signedOut() {
    location.href = `/signin/?next=${encodeURIComponent(location.pathname)}`;
    return new Promise(() => {});
  }

  // Put each element in the place of the one with its id. What was unfolded and focused stays so.
  function swap(fragment) {
    for (const fresh of [...fragment.children]) {
      const old = byId(fresh.id);
      if (old) replace(old, fresh);
    }
    reef.paint();
    reef.tick();
  }

  function replace(old, fresh) {
    for (const details of old.querySelectorAll("details[id]")) {
      const same = fresh.querySelector(`#${CSS.escape(details.id)}`);
      if (same && !("auto" in details.dataset)) same.open = details.open;
    }
    const focused = old.contains(document.activeElement) ? document.activeElement.id : "";
    old.replaceWith(fresh);
    if (focused) byId(focused)?.focus({ preventScroll: true });
  }

  // What unfolded by itself folds again; what the reader touched stays as the reader left it.
  document.addEventListener("click", (event) => {
    delete event.target.closest("summary")?.parentElement.dataset.auto;
  });

  const rest = (milliseconds) => new Promise((done) => setTimeout(done, milliseconds));
  let asking = false;
  let asked = false;

  // One request at a time, so that an older answer never replaces a newer one.
  async function factsSoon() {
    asked = true;
    if (asking) return;
    asking = true;
    while (asked) {
      await rest(150);
      asked = false;
      try {
        swap(await get(one.dataset.nowUrl));
        follow();
      } catch {
        asked = true;
        await rest(3000);
      }
    }
    asking = false;
    // A process that starts or ends tells nobody when it is done.
    if (document.querySelector("[data-passing]")) setTimeout(factsSoon, 2000);
  }

  // -- the transcript ---------------------------------------------------------------------------

  const number = (block) => Number(block.id.slice(1));
  const blockOf = (id) => byId(`e${id}`);
  // Deltas of entries that the page has no block for yet, by entry.
  const early = new Map();

  function place(block) {
    byId("nothing-said")?.remove();
    const blocks = byId("blocks");
    let after = blocks.lastElementChild;
    while (after && number(after) > number(block)) after = after.previousElementSibling;
    if (after) after.after(block);
    else blocks.prepend(block);
  }

  function make(entry) {
    const mould = byId(`mould-${entry.kind}`);
    if (!mould) return null;
    const block = mould.content.firstElementChild.cloneNode(true);
    block.id = `e${entry.id}`;
    if (entry.callId) block.dataset.call = entry.callId;
    block.querySelector("details")?.setAttribute("id", `d${entry.id}`);
    const name = block.querySelector(".tool-name");
    if (name && entry.tool) name.textContent = entry.tool;
    place(block);
    return block;
  }

  // The text node that a block's words are appended to.
  function words(block) {
    const place = block.querySelector("[data-said]");
    if (!place) return null;
    if (place.firstChild?.nodeType !== Node.TEXT_NODE) place.replaceChildren("");
    if (!place.firstChild) place.append(document.createTextNode(""));
    return place.firstChild;
  }

  function onEntry(entry) {
    answerChanged(entry.answerId);
    if (entry.final) {
      want(entry.id);
    } else if (entry.kind === "tool_result") {
      showRunning(entry);
    } else {
      const block = blockOf(entry.id) || make(entry);
      const said = block && words(block);
      if (said) said.data = entry.text;
    }
    follow();
  }

  function showRunning(entry) {
    const block = callOf(entry) || blockOf(entry.id) || make(entry);
    if (!block) return;
    const output = block.querySelector("[data-output]");
    output.hidden = false;
    output.textContent = entry.text;
    const details = block.querySelector("details");
    details.className = "tool is-running";
    if (!details.open) {
      details.open = true;
      details.dataset.auto = "";
    }
    block.querySelector(".tool-state").textContent = "running";
  }

  function callOf(entry) {
    if (!entry.callId) return null;
    const found = document.querySelectorAll(`[data-call="${CSS.escape(entry.callId)}"]`);
    return found[found.length - 1] || null;
  }

  function onDelta(delta, rev) {
    const block = blockOf(delta.entry);
    const said = block && words(block);
    if (said) {
      said.appendData(delta.text);
      follow();
    } else {
      if (!early.has(delta.entry)) want(delta.entry);
      early.set(delta.entry, [...(early.get(delta.entry) || []), [rev, delta.text]]);
    }
  }

  // An answer's last block carries its line, which comes only when the answer is over.
  let answer = null;
  function answerChanged(id) {
    if (answer !== null && id !== answer) lineOfLast(answer);
    answer = id ?? null;
  }
  let lastOfAnswer = 0;
  function lineOfLast() {
    if (lastOfAnswer) want(lastOfAnswer);
    lastOfAnswer = 0;
  }

  // -- blocks that are final, fetched together --------------------------------------------------

  let wanted = new Set();
  let wantTimer = 0;

  function want(id) {
    wanted.add(id);
    wantTimer ||= setTimeout(fetchWanted, 30);
  }

  async function fetchWanted() {
    const ids = [...wanted].slice(0, 100);
    ids.forEach((id) => wanted.delete(id));
    try {
      const fragment = await get(`${one.dataset.entriesUrl}?ids=${ids.join(",")}`);
      [...fragment.children].forEach(settle);
      trim();
      reef.tick();
      follow();
    } catch {
      ids.forEach((id) => wanted.add(id));
      wantTimer = setTimeout(fetchWanted, 2000);
      return;
    }
    wantTimer = wanted.size ? setTimeout(fetchWanted, 30) : 0;
  }

  // A long day's transcript is not all kept in the page; the earlier part is a click away.
  const MOST_BLOCKS = 500;
  const KEPT_BLOCKS = 300;

  function trim() {
    const blocks = byId("blocks");
    if (!pinned || blocks.childElementCount <= MOST_BLOCKS) return;
    while (blocks.childElementCount > KEPT_BLOCKS) blocks.firstElementChild.remove();
    const before = `?before=${number(blocks.firstElementChild)}`;
    const link = byId("earlier") || earlierLink();
    link.href = before;
    link.dataset.url = one.dataset.transcriptUrl + before;
  }

  function earlierLink() {
    const link = byId("mould-earlier").content.firstElementChild.cloneNode(true);
    byId("transcript").prepend(link);
    return link.firstElementChild;
  }

  function settle(block) {
    const old = byId(block.id);
    if (block.dataset.result) byId(`e${block.dataset.result}`)?.remove();
    if (!old) {
      place(block);
      say(block);
    } else if (Number(block.dataset.rev) >= Number(old.dataset.rev) && !("open" in block.dataset)) {
      replace(old, block);
    }
    lastOfAnswer = Math.max(lastOfAnswer, number(block), Number(block.dataset.result || 0));
  }

  // What came before the block did and is not yet in its text.
  function say(block) {
    const said = early.size && words(block);
    const rev = Number(block.dataset.rev);
    for (const [at, text] of early.get(number(block)) || []) {
      if (said && at > rev) said.appendData(text);
    }
    early.delete(number(block));
  }

  async function reload() {
    source?.close();
    const fragment = await get(one.dataset.transcriptUrl);
    byId("transcript").replaceChildren(...fragment.childNodes);
    early.clear();
    connect();
    follow();
  }

  // -- the stream ---------------------------------------------------------------------------------

  let source = null;
  let rev = 0;
  let pause = 1000;

  function connect() {
    rev = Math.max(rev, Number(byId("blocks").dataset.rev));
    open();
  }

  function open() {
    source?.close();
    source = reef.watched(new EventSource(`${one.dataset.streamUrl}?after=${rev}`));
    const on = (kind, act) => source.addEventListener(kind, (event) => {
      if (event.lastEventId) rev = Math.max(rev, Number(event.lastEventId));
      act(event);
    });
    on("entry", (event) => onEntry(JSON.parse(event.data)));
    on("delta", (event) => onDelta(JSON.parse(event.data), Number(event.lastEventId)));
    on("status", (event) => onStatus(JSON.parse(event.data)));
    on("reload", () => reload().catch(again));
    source.onopen = () => {
      pause = 1000;
      reef.connected(true);
      factsSoon();
    };
    source.onerror = () => {
      reef.connected(false);
      if (source.readyState === EventSource.CLOSED) again();
    };
  }

  // A browser has few connections for each site: a tab that nobody looks at gives its back.
  let leaving = 0;
  document.addEventListener("visibilitychange", () => {
    clearTimeout(leaving);
    if (!source) return;
    if (document.hidden) leaving = setTimeout(() => source.close(), 3000);
    else if (source.readyState === EventSource.CLOSED && !finished()) open();
  });

  const finished = () => byId("head").dataset.status === "destroyed";

  function again() {
    if (!document.hidden) setTimeout(open, pause);
    pause = Math.min(pause * 2, 15000);
  }

  function onStatus(facts) {
    factsSoon();
    if (facts.status !== "working") {
      lineOfLast();
      answer = null;
    }
    if (facts.status === "destroyed") {
      source.close();
      composer?.remove();
    }
  }

  // -- earlier ------------------------------------------------------------------------------------

  byId("transcript").addEventListener("click", async (event) => {
    const link = event.target.closest("#earlier");
    if (!link || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    link.setAttribute("aria-busy", "true");
    const fragment = await get(link.dataset.url).catch(() => null);
    if (!fragment) return void link.removeAttribute("aria-busy");
    const height = document.documentElement.scrollHeight;
    const older = fragment.querySelector("#blocks").children;
    const more = fragment.querySelector("#earlier");
    byId("blocks").prepend(...[...older].filter((block) => !byId(block.id)));
    if (more) link.replaceWith(more);
    else link.closest("p").remove();
    pinned = false;
    scrollBy({ top: document.documentElement.scrollHeight - height, behavior: "instant" });
    reef.tick();
  });

  // -- sending ------------------------------------------------------------------------------------

  const composer = byId("composer");
  let tried = "";

  function newKey() {
    const bytes = crypto.getRandomValues(new Uint8Array(16));
    return [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
  }

  async function post(form) {
    const answer = await fetch(form.action, {
      method: "POST",
      headers,
      body: new URLSearchParams(new FormData(form)),
    });
    if (answer.redirected) return signedOut();
    const text = await answer.text();
    const plain = (answer.headers.get("Content-Type") || "").startsWith("text/plain");
    if (!answer.ok) throw new Error(plain ? text : `reef answered ${answer.status}`);
    return { fragment: parse(text), key: answer.headers.get("Reef-Key") };
  }

  function tell(place, problem) {
    place.hidden = !problem;
    place.textContent = problem || "";
  }

  async function send() {
    const text = composer.message;
    const button = byId("send");
    if (!text.value.trim() || button.disabled) return;
    // The same words again are the same message; other words are another one.
    const saying = `${composer.mode.value}\n${text.value}`;
    if (tried && tried !== saying) composer.key.value = newKey();
    tried = saying;
    button.disabled = true;
    try {
      const { fragment, key } = await post(composer);
      text.value = "";
      keep();
      tried = "";
      composer.key.value = key;
      tell(byId("refused"), "");
      swap(fragment);
      factsSoon();
      pinned = true;
      grow();
    } catch (error) {
      const away = error instanceof TypeError;
      tell(byId("refused"), away ? "reef does not answer. Your text is kept; send it again." : error.message);
    } finally {
      button.disabled = false;
      text.focus();
      follow();
    }
  }

  // Words that were not sent yet outlive a look at another page of this tab.
  const draft = `reef:draft:${one.dataset.nowUrl}`;

  function keep() {
    try {
      if (composer.message.value) sessionStorage.setItem(draft, composer.message.value);
      else sessionStorage.removeItem(draft);
    } catch {
      // No storage, no drafts.
    }
  }

  function bringBack() {
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

  if (composer) {
    composer.addEventListener("submit", (event) => {
      event.preventDefault();
      send();
    });
    composer.message.addEventListener("input", () => {
      grow();
      keep();
    });
    bringBack();
    composer.message.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && !event.isComposing) {
        event.preventDefault();
        send();
      }
    });
  }

  // Buttons that ask nothing first.
  document.addEventListener("submit", async (event) => {
    const form = event.target;
    if (!form.matches("form[data-script]")) return;
    event.preventDefault();
    try {
      const { fragment } = await post(form);
      swap(fragment);
      tell(byId("problem"), "");
      factsSoon();
    } catch (error) {
      const away = error instanceof TypeError;
      tell(byId("problem"), away ? "reef does not answer. Try again soon." : error.message);
    }
  });

  // -- begin ----------------------------------------------------------------------------------------

  history.scrollRestoration = "manual";
  if ("follow" in one.dataset) {
    follow();
    addEventListener("load", follow);
    connect();
    setInterval(() => document.hidden || factsSoon(), 30000);
  }
})();
