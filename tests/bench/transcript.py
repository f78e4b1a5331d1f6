"""Bench: the page of a lieutenant with a long transcript, in a real browser.

    .venv/bin/python -m tests.bench.transcript [entries]

Prints first paint, nodes, memory and durations without judging them; nodes and memory do not depend
on the speed of the machine.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from playwright.sync_api import Page

from tests.browsers import launched, signed_in, url_of
from tests.stack import Stack

PLANT = (
    "from tests.lieutenants.planted import plant, plant_long_answer; plant_long_answer(plant({}))"
)
PAINT = "performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? -1"
FIRST_BYTE = "performance.getEntriesByType('navigation')[0].responseStart"
NODES = "document.getElementsByTagName('*').length"
HEAP = "performance.memory.usedJSHeapSize / 1e6"
LONGEST = """() => new Promise((done) => {
  const tasks = [];
  new PerformanceObserver((list) => tasks.push(...list.getEntries().map((each) => each.duration)))
    .observe({ type: "longtask", buffered: true });
  setTimeout(() => done(Math.max(0, ...tasks)), 200);
})"""


def main(entries: int = 50_000) -> None:
    with (
        tempfile.TemporaryDirectory() as folder,
        Stack(Path(folder)) as stack,
        launched() as browser,
    ):
        stack.manage("shell", "-c", PLANT.format(entries))
        page = signed_in(browser, stack).new_page()
        url = f"{url_of(stack)}/lieutenants/long/"
        for number in range(3):
            page.goto(url)
            page.wait_for_load_state("load")
            _print(page, f"page of {entries:,} entries, load {number + 1}")
        for size in (10, 50):
            took = _timed(lambda: _load_earlier(page, size))  # noqa: B023
            _print(page, f"after {size} more windows ({took:.1f} s)")
        took = _timed(lambda: page.keyboard.press("j"))
        for words, what in (("needle-4711", "rare"), ("turn 1.", "one"), ("nowhere-at-all", "no")):
            took = _timed(lambda: _find(page, words))  # noqa: B023
            print(f"find {what} match: {took:.2f} s, {page.locator('#find-count').inner_text()}")
        took = _timed(lambda: page.locator("#newest").click())
        page.locator("[data-piece]").first.click()
        page.locator(".piece").wait_for()
        took = _timed(lambda: _through_pieces(page))
        _print(page, f"after 20 pieces of the long answer ({took:.1f} s)")


def _print(page: Page, what: str) -> None:
    page.evaluate("globalThis.gc?.()")
    print(
        f"{what}: first byte {page.evaluate(FIRST_BYTE):.0f} ms, "
        f"first paint {page.evaluate(PAINT):.0f} ms, nodes {page.evaluate(NODES):,}, "
        f"blocks {page.locator('.block').count()}, heap {page.evaluate(HEAP):.1f} MB, "
        f"longest task {page.evaluate(LONGEST):.0f} ms"
    )


def _timed(act: Callable[[], object]) -> float:
    began = time.monotonic()
    act()
    return time.monotonic() - began


def _load_earlier(page: Page, count: int) -> None:
    for _ in range(count):
        first = page.locator("#blocks > :first-child").get_attribute("id")
        page.evaluate("document.getElementById('earlier').click()")
        page.wait_for_function(
            "(id) => document.querySelector('#blocks > :first-child').id !== id", arg=first
        )


def _find(page: Page, words: str) -> None:
    page.locator("#find").fill(words)
    page.locator("#find").press("Enter")
    page.wait_for_function(
        "() => / of |Not found/.test(document.getElementById('find-count').textContent)"
        " && !/Search/.test(document.getElementById('find-count').textContent)"
    )


def _through_pieces(page: Page) -> None:
    for _ in range(20):
        before = page.locator(".piece p").inner_text()
        page.locator(".piece button", has_text="Next").click()
        page.wait_for_function(
            "(text) => document.querySelector('.piece p')?.innerText !== text", arg=before
        )


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
