// Keeps an element that is marked data-live up to date: fetched again (by htmx) soon after the
// server tells of a change, and every so often in any case.
"use strict";

(() => {
  const SOONEST = 1000;
  const IN_ANY_CASE = 20000;
  let last = 0;
  let timer = 0;
  let took = 0;

  const element = () => document.querySelector("[data-live]");

  function refresh() {
    clearTimeout(timer);
    timer = 0;
    last = performance.now();
    if (element() && !document.hidden) htmx.trigger(element(), "refresh");
  }

  // At most one in a second, less often where the server is slow; the last change is never missed.
  function soon() {
    if (timer) return;
    const pause = Math.max(SOONEST, took * 8);
    timer = setTimeout(refresh, Math.max(50, last + pause - performance.now()));
  }

  document.addEventListener("htmx:sseBeforeMessage", (event) => {
    event.preventDefault(); // It only says that something changed; there is nothing to swap in.
    soon();
  });
  document.addEventListener("htmx:sseOpen", () => {
    reef.connected(true);
    soon();
  });
  document.addEventListener("htmx:sseError", () => reef.connected(false));

  document.addEventListener("htmx:beforeSwap", (event) => {
    // The session is over: the answer is the sign-in page, which belongs in no table.
    if (new URL(event.detail.xhr.responseURL).pathname.startsWith("/signin")) {
      event.detail.shouldSwap = false;
      location.reload();
    }
  });
  document.addEventListener("htmx:afterRequest", () => {
    took = performance.now() - last;
  });
  document.addEventListener("htmx:afterSwap", () => reef.tick());

  // A browser has few connections for each site: a tab that nobody looks at gives its back. The
  // extension connects again after an error, so coming back tells it of one.
  let source = null;
  let leaving = 0;
  htmx.createEventSource = (url) => (source = reef.watched(new EventSource(url)));
  document.addEventListener("visibilitychange", () => {
    clearTimeout(leaving);
    if (document.hidden) {
      leaving = setTimeout(() => source?.close(), 3000);
    } else {
      if (source?.readyState === EventSource.CLOSED) source.dispatchEvent(new Event("error"));
      soon();
    }
  });
  setInterval(refresh, IN_ANY_CASE);
})();
