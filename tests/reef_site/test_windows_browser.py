"""Many windows of one browser share their streams, and another one still loads."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from tests.browsers import SECONDS, complaints_of, launched, signed_in, url_of
from tests.stack import Stack
from tests.waiting import PATIENCE

pytestmark = pytest.mark.browser

NAMES = [f"lt-{number}" for number in range(8)]
# Without shared workers, one window leads; without channels, each window has its own stream.
LEADER = "delete window.SharedWorker"
BORN_HIDDEN = """
window.isHidden = true;
Object.defineProperty(document, "hidden", { get: () => window.isHidden });
"""
SHOW = """() => {
  window.isHidden = false;
  document.dispatchEvent(new Event("visibilitychange"));
}"""


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with Stack(tmp_path_factory.mktemp("windows"), REEF_OWN_HOST="no") as stack:
        for name in NAMES:
            stack.create(name)
        yield stack


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    expect.set_options(timeout=SECONDS * 1000)
    with launched() as browser:
        yield browser


@pytest.fixture(params=["", LEADER], ids=["worker", "leader"])
def context(
    browser: Browser, stack: Stack, request: pytest.FixtureRequest
) -> Iterator[BrowserContext]:
    context = signed_in(browser, stack)
    if request.param:
        context.add_init_script(request.param)
    yield context
    context.close()


def open_page(context: BrowserContext, stack: Stack, path: str) -> Page:
    page = context.new_page()
    page.goto(url_of(stack) + path)
    return page


def seconds_until_update(page: Page, stack: Stack, name: str) -> float:
    """Return after how many seconds a page shows a message that somebody else sent."""
    messages = page.locator(".is-user")
    before = messages.count()
    stack.wait_idle(name)
    assert stack.send(name, "hello").status_code == 200
    began = time.monotonic()
    expect(messages).to_have_count(before + 1)
    return time.monotonic() - began


@pytest.mark.rotated
def test_eight_windows_are_live_and_a_ninth_loads(context: BrowserContext, stack: Stack) -> None:
    pages = [open_page(context, stack, f"/lieutenants/{name}/") for name in NAMES]
    complaints = [complaints_of(page) for page in pages]
    for page in pages:
        expect(page.locator("#live")).to_have_text("Live")
    began = time.monotonic()
    ninth = open_page(context, stack, "/lieutenants/")
    expect(ninth.locator("#live")).to_have_text("Live")
    assert time.monotonic() - began < 10 * PATIENCE, "it does not wait for a connection"
    for name, page in zip(NAMES, pages, strict=True):
        seconds_until_update(page, stack, name)
        expect(page.locator(".close").last).to_contain_text("completed")
    pages[7].get_by_label("Message to").fill("mine")
    pages[7].get_by_role("button", name="Send", exact=True).click()
    expect(pages[7].get_by_label("Message to")).to_have_value("")
    assert not any(complaints)


@pytest.mark.rotated
def test_background_window_subscribes_when_shown(context: BrowserContext, stack: Stack) -> None:
    context.add_init_script(BORN_HIDDEN)
    pages = [open_page(context, stack, f"/lieutenants/{name}/") for name in NAMES]
    assert {page.locator("#live").inner_text() for page in pages} == {"Not live"}
    pages[3].evaluate(SHOW)
    expect(pages[3].locator("#live")).to_have_text("Live")
    seconds_until_update(pages[3], stack, NAMES[3])


@pytest.mark.rotated
@pytest.mark.parametrize("end", ["closed", "frozen"])
def test_next_window_leads_when_the_leader_is_gone(
    browser: Browser, stack: Stack, end: str
) -> None:
    context = signed_in(browser, stack)
    context.add_init_script(LEADER)
    leader, *others = [open_page(context, stack, f"/lieutenants/{name}/") for name in NAMES[:3]]
    for page in (leader, *others):
        expect(page.locator("#live")).to_have_text("Live")
    if end == "closed":
        leader.close()
    else:
        context.new_cdp_session(leader).send("Page.setWebLifecycleState", {"state": "frozen"})
    for name, page in zip(NAMES[1:3], others, strict=True):
        seconds_until_update(page, stack, name)
    context.close()


@pytest.mark.rotated
def test_two_windows_show_each_entry_once(context: BrowserContext, stack: Stack) -> None:
    first = open_page(context, stack, "/lieutenants/lt-0/")
    stack.wait_idle("lt-0")
    stack.send("lt-0", "SLOW 2 one two three four five six seven eight nine ten")
    first.locator(".is-text[data-open]").wait_for()
    second = open_page(context, stack, "/lieutenants/lt-0/")
    stack.wait_idle("lt-0")
    for page in (first, second):
        expect(page.locator(".is-text").last).to_contain_text("nine ten")
        expect(page.locator(".close").last).to_contain_text("completed")
        assert page.locator(".is-text").last.inner_text().count("seven") == 1
