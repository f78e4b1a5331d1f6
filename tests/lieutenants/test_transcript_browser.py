"""A real browser at a long transcript and at a queue, on a wide screen and on a phone."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, BrowserContext, Locator, Page, expect

from tests.browsers import SECONDS, complaints_of, launched, signed_in, url_of
from tests.lieutenants.planted import NEEDLE
from tests.stack import Stack
from tests.waiting import until

pytestmark = pytest.mark.browser

PLANT = (
    "from tests.lieutenants.planted import plant, plant_long_answer; plant_long_answer(plant({}))"
)
ENTRIES = 1050
WIDTHS = {1440: 900, 390: 844}
MAX_NODES = 12_000
NODES = "document.getElementsByTagName('*').length"


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with Stack(tmp_path_factory.mktemp("long")) as stack:
        stack.manage("shell", "-c", PLANT.format(ENTRIES))
        yield stack


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    expect.set_options(timeout=SECONDS * 1000)
    with launched() as browser:
        yield browser


@pytest.fixture(scope="module")
def context(browser: Browser, stack: Stack) -> BrowserContext:
    return signed_in(browser, stack, has_touch=True, permissions=["clipboard-read"])


@pytest.fixture(params=WIDTHS)
def page(request: pytest.FixtureRequest, context: BrowserContext) -> Iterator[Page]:
    """A page of this width; script errors and violations of the CSP fail the test."""
    page = context.new_page()
    page.set_viewport_size({"width": request.param, "height": WIDTHS[request.param]})
    complaints = complaints_of(page)
    yield page
    width = page.evaluate("document.documentElement.scrollWidth")
    page.close()
    assert not complaints
    assert width <= request.param


def first_id(page: Page) -> int:
    return int(page.locator("#blocks > .block").first.get_attribute("id")[1:])  # type: ignore[index]


def last_id(page: Page) -> int:
    return int(page.locator("#blocks > .block").last.get_attribute("id")[1:])  # type: ignore[index]


def is_on_screen(page: Page, block: Locator) -> bool:
    box = block.bounding_box()
    return box is not None and 0 <= box["y"] < page.viewport_size["height"]  # type: ignore[index]


@pytest.mark.rotated
def test_long_transcript_is_read_to_its_beginning_and_back(page: Page, stack: Stack) -> None:
    page.goto(f"{url_of(stack)}/lieutenants/long/")
    newest = last_id(page)
    expect(page.locator("#newest")).to_be_hidden()
    while first_id(page) > 1:
        before = first_id(page)
        page.evaluate("scrollTo(0, 0)")
        until(lambda: first_id(page) < before, SECONDS)  # noqa: B023
        assert page.evaluate(NODES) < MAX_NODES
    assert not page.locator("#earlier").count()
    assert last_id(page) < newest, "the newest blocks have left the page"
    assert page.locator("#later").count()

    page.keyboard.press("k")
    end = last_id(page)
    page.evaluate("scrollTo(0, document.documentElement.scrollHeight)")
    until(lambda: last_id(page) > end, SECONDS)
    page.locator("#newest").click()
    until(lambda: last_id(page) == newest, SECONDS)
    expect(page.locator("#newest")).to_be_hidden()
    assert not page.locator("#later").count()


def test_jumps_to_messages(page: Page, stack: Stack) -> None:
    page.goto(f"{url_of(stack)}/lieutenants/long/")
    page.locator("#jump > summary").click()
    page.get_by_role("button", name="Earlier messages").click()
    link = page.locator("#jump-list a", has_text="user of turn 83.")
    link.click()
    target = page.locator(".is-user", has_text="user of turn 83.")
    expect(target).to_be_focused()
    assert is_on_screen(page, target)
    assert page.url.endswith(f"?at={target.get_attribute('id')[1:]}#{target.get_attribute('id')}")  # type: ignore[index]

    page.keyboard.press("j")
    expect(page.locator(".is-user", has_text="user of turn 84.")).to_be_focused()
    page.keyboard.press("k")
    expect(target).to_be_focused()

    page.goto(page.url)
    expect(target).to_be_focused()
    assert is_on_screen(page, target)
    expect(page.locator("#newest")).to_be_visible()
    assert page.locator("#earlier").count() == page.locator("#later").count() == 1


def test_finds_words_in_all_entries(page: Page, stack: Stack) -> None:
    page.goto(f"{url_of(stack)}/lieutenants/long/")
    page.keyboard.press("/")
    expect(page.locator("#find")).to_be_focused()
    page.keyboard.type("of TURN 1")
    page.keyboard.press("Enter")
    expect(page.locator("#find-count")).to_have_text(re.compile(r"^1 of \d+\+?$"))
    page.keyboard.press("Enter")
    expect(page.locator("#find-count")).to_have_text(re.compile(r"^2 of "))
    page.keyboard.press("Shift+Enter")
    expect(page.locator("#find-count")).to_have_text(re.compile(r"^1 of "))

    page.locator("#find").fill(NEEDLE)
    page.keyboard.press("Enter")
    # One of the two entries with the needle is the first of all.
    expect(page.locator("#find-count")).to_have_text("1 of 2")
    page.locator("#find-previous").click()
    expect(page.locator("#find-count")).to_have_text("2 of 2")
    assert first_id(page) == 1
    assert is_on_screen(page, page.locator(".is-target"))
    assert page.evaluate("CSS.highlights.get('found').size") == 1
    page.locator("#find-list").click()
    expect(page.locator("#find-results a")).to_have_count(2)

    # What the arguments of a call say is found, too.
    page.locator("#find").fill("pytest -q part_42")
    page.keyboard.press("Enter")
    expect(page.locator("#find-count")).to_have_text("1 of 2")
    expect(page.locator(".is-target")).to_contain_text("part_42")
    page.locator("#find").fill("nowhere to be found")
    page.keyboard.press("Enter")
    expect(page.locator("#find-count")).to_have_text("Not found")
    page.keyboard.press("Escape")
    expect(page.locator("#find-count")).to_have_text("")


def test_long_answer_is_read_in_pieces_and_code_is_copied(page: Page, stack: Stack) -> None:
    page.goto(f"{url_of(stack)}/lieutenants/long/")
    nodes = page.evaluate(NODES)
    page.get_by_role("button", name="Show more").click()
    piece = page.locator(".piece")
    expect(piece).to_contain_text("Characters 1 to 50,000 of 9,9")
    piece.get_by_role("button", name="Next").click()
    expect(piece).to_contain_text("Characters 50,001 to 100,000")
    piece.get_by_role("button", name="End").click()
    expect(piece.locator("pre")).to_contain_text("A line of a very long answer")
    expect(piece.get_by_role("button", name="Next")).to_be_disabled()
    assert page.evaluate(NODES) < nodes + 30
    assert len(piece.locator("pre").inner_text()) <= 50_000
    piece.get_by_role("button", name="Close").click()
    expect(page.locator(".piece")).to_have_count(0)
    with page.expect_download() as download:
        page.get_by_role("link", name="Download").click()
    assert download.value.path().stat().st_size > 9_900_000

    code = page.locator(".code-block").last
    code.get_by_role("button").click()
    expect(code.get_by_role("button")).to_have_text("Copied")
    assert page.evaluate("navigator.clipboard.readText()") == code.locator("pre").inner_text()


def shows_queue(page: Page, *texts: str) -> None:
    expect(page.locator("#queue > ol .head-of")).to_have_text(list(texts))


def test_queue_is_sorted_changed_and_withdrawn(page: Page, stack: Stack) -> None:
    name = f"queue-{page.viewport_size['width']}"  # type: ignore[index]
    stack.create(name)
    stack.send(name, "SLOW 600 go")
    for text in ("one", "two", "three"):
        stack.send(name, text)
    page.goto(f"{url_of(stack)}/lieutenants/{name}/")
    shows_queue(page, "one", "two", "three")

    # By touch, by the keyboard on a button, and by a key.
    page.get_by_role("button", name="Move up: three").tap()
    shows_queue(page, "one", "three", "two")
    page.get_by_role("button", name="Move up: three").focus()
    page.keyboard.press("Enter")
    shows_queue(page, "three", "one", "two")
    expect(page.get_by_role("button", name="Move up: three")).to_be_focused()
    page.keyboard.press("Alt+ArrowDown")
    shows_queue(page, "one", "three", "two")

    page.locator("summary[aria-label='Edit: two']").click()
    field = page.get_by_label("Text of the queued message").locator("visible=true")
    field.fill("two <b>changed</b>")
    page.get_by_role("button", name="Save").locator("visible=true").click()
    shows_queue(page, "one", "three", "two <b>changed</b>")
    expect(page.locator("details.edit[open]")).to_have_count(0)
    page.get_by_role("button", name="Withdraw: one").click()
    shows_queue(page, "three", "two <b>changed</b>")
    page.locator("#unsent summary").click()
    page.get_by_role("button", name="Send again: one").click()
    shows_queue(page, "three", "two <b>changed</b>", "one")
    expect(page.locator("#unsent")).to_have_count(0)
    page.get_by_role("button", name="Withdraw: one").click()
    shows_queue(page, "three", "two <b>changed</b>")

    # Texts that are edited while their messages leave the queue are not lost, nor is a draft.
    page.get_by_label("Message to").fill("my draft")
    for each in ("three", "two <b>changed</b>"):
        page.locator(f"summary[aria-label='Edit: {each}']").click()
    fields = page.get_by_label("Text of the queued message").locator("visible=true")
    fields.first.fill("my new words")
    fields.last.fill("and more")
    stack.client.post(f"/lieutenant/lieutenants/{name}/abort")
    shows_queue(page)
    expect(page.get_by_label("Message to")).to_have_value("my draft\n\nmy new words\n\nand more")
    expect(page.locator("#refused")).to_contain_text("left the queue while you edited it")
    stack.client.delete(f"/lieutenant/lieutenants/{name}")
