"""Bench: latency from the agent's output to the text in a real browser, with many lieutenants.

    .venv/bin/python -m tests.bench.browser [lieutenants] [seconds]

Each stand-in prints the time of day; a script in the page records when it appears. Both use this
machine's clock. Prints numbers without judging them.
"""

from __future__ import annotations

import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright

from tests.stack import Stack

RATE = 10
CHROMIUM = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]
WATCH = """() => {
  window.lags = [];
  const seen = new Set();
  const look = () => {
    const now = Date.now();
    const text = document.getElementById("transcript").textContent;
    for (const [word, at] of text.matchAll(/t(\\d{13})/g))
      if (!seen.has(word)) { seen.add(word); window.lags.push(now - Number(at)); }
  };
  new MutationObserver(look).observe(document.getElementById("transcript"),
    { subtree: true, childList: true, characterData: true });
}"""


def main(lieutenants: int = 50, seconds: int = 20) -> None:
    with tempfile.TemporaryDirectory() as folder, Stack(Path(folder)) as stack:
        names = [f"lt-{number}" for number in range(lieutenants)]
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(stack.create, names))
        url = f"http://127.0.0.1:{stack.port}"
        link = stack.manage("signin").split()[-1]
        link = f"{url}/signin/{link.rpartition('/')[2]}"
        with sync_playwright() as play:
            browser = play.chromium.launch(executable_path="/usr/bin/chromium", args=CHROMIUM)
            page = browser.new_page()
            page.goto(link)
            page.goto(f"{url}/lieutenants/{names[0]}/")
            page.wait_for_selector("#transcript", state="attached")
            page.evaluate(WATCH)
            with ThreadPoolExecutor(4) as pool:
                list(
                    pool.map(lambda name: stack.send(name, f"CLOCK {seconds * RATE} {RATE}"), names)
                )
            for name in names:
                stack.wait_idle(name, seconds + 60)
            lags: list[Any] = sorted(page.evaluate("() => window.lags"))
            browser.close()
    words = seconds * RATE
    print(f"{lieutenants} lieutenants, {RATE} words a second each: {len(lags)} of {words} seen")
    for name, share in (("p50", 0.5), ("p95", 0.95), ("max", 1)):
        print(f"{name} {lags[min(len(lags) - 1, int(len(lags) * share))]} ms")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
