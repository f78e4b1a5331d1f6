// Times in words, kept right while the page is open. `templatetags/reef.py` says them the same way.
"use strict";

window.reef = (() => {
  // Browsers' clocks go wrong: ages are counted from the server's.
  const offset = Number(document.documentElement.dataset.now || Date.now()) - Date.now();
  const steps = [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]];

  const now = () => Date.now() + offset;

  function words(milliseconds) {
    const seconds = Math.max(0, Math.floor(milliseconds / 1000));
    const [size, unit] = steps.find((step) => seconds >= step[0]) || [1, "s"];
    return `${Math.floor(seconds / size)} ${unit}`;
  }

  function tick() {
    if (document.hidden) return;
    for (const time of document.querySelectorAll("time[data-rel]")) {
      const ending = time.dataset.rel === "ago" ? " ago" : "";
      const text = words(now() - Date.parse(time.dateTime)) + ending;
      if (time.textContent !== text) time.textContent = text;
    }
  }

  const clock = () => new Date().toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });

  // The badge that says whether the page is up to date: live, waiting (reconnecting) or stale.
  const badge = { state: "off", since: clock() };

  function paint() {
    const element = document.getElementById("live");
    if (!element) return;
    const text = {
      off: "Not live",
      live: "Live",
      waiting: "Reconnecting…",
      stale: `Stale since ${badge.since}`,
    }[badge.state];
    element.dataset.state = badge.state;
    const word = element.querySelector(".live-word");
    if (word.textContent !== text) word.textContent = text;
  }

  const STALE_AFTER = 12000;
  let staleTimer = 0;

  // Connected or not. Each try that fails says "not" again: what counts is since when it lasts.
  function connected(yes) {
    if (yes) {
      clearTimeout(staleTimer);
      staleTimer = 0;
      badge.state = "live";
    } else if (!staleTimer) {
      if (badge.state === "live") badge.since = clock();
      badge.state = "waiting";
      staleTimer = setTimeout(() => {
        badge.state = "stale";
        paint();
      }, STALE_AFTER);
    }
    paint();
  }

  // The server says something every 15 s. A connection that says nothing for much longer is dead,
  // though nobody told: to whoever uses it that is an error like any other.
  const SILENT_AFTER = 40000;

  function watched(source) {
    let timer = 0;
    const hangUp = () => {
      if (source.readyState === EventSource.CLOSED) return;
      source.close();
      source.dispatchEvent(new Event("error"));
    };
    const heard = () => {
      clearTimeout(timer);
      timer = setTimeout(hangUp, SILENT_AFTER);
    };
    source.addEventListener("open", heard);
    source.addEventListener("ping", heard);
    heard();
    return source;
  }

  setInterval(tick, 1000);
  document.addEventListener("visibilitychange", tick);
  return { tick, paint, connected, watched };
})();
