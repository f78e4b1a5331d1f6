"""The page of changes in a real browser: opening files, commenting on lines, sending."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browsers import SECONDS, complaints_of, launched, signed_in, url_of
from tests.lieutenants.changes.repositories import change, make_repository
from tests.stack import Stack
from tests.waiting import until

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with Stack(tmp_path_factory.mktemp("changes"), REEF_OWN_HOST="no") as stack:
        yield stack


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    expect.set_options(timeout=SECONDS * 1000)
    with launched() as browser:
        yield browser


def opened(page: Page, name: str) -> Any:
    """Return a file of the list after opening it."""
    file = page.locator("details.file").filter(has=page.locator(f'summary .path:text-is("{name}")'))
    file.locator("summary").click()
    expect(file.locator(".diff")).to_be_visible()
    return file


@pytest.mark.rotated
def test_comments_on_lines_are_sent_as_one_message(stack: Stack, browser: Browser) -> None:
    name = "ada"
    stack.create(name, agent="command", command=["cat"])
    folder = Path(stack.get(name)["folder"])
    make_repository(folder)
    change(folder)
    context = signed_in(browser, stack)
    page = context.new_page()
    page.set_viewport_size({"width": 1440, "height": 900})
    complaints = complaints_of(page)
    _open_changes(page, stack, name)

    cart = opened(page, "cart.py")
    cart.get_by_role("button", name="Comment on line 5", exact=True).click()
    page.keyboard.type("Why five?")
    page.get_by_role("button", name="Add comment").click()
    expect(cart.locator(".box .said")).to_have_text("Why five?")
    # From the line on which the focus is again: two lines down, by keyboard alone.
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    page.keyboard.type("Half a sen")

    # What was added and what is being written survives a reload, here in a narrow window.
    assert _overflow(page) <= 0
    page.set_viewport_size({"width": 390, "height": 844})
    page.reload()
    expect(page.locator("#comment-count")).to_have_text("1")
    cart = opened(page, "cart.py")
    box = page.get_by_label("Comment on line 7 of cart.py")
    expect(box).to_have_value("Half a sen")
    box.press("End")
    page.keyboard.type("tence.")
    page.keyboard.press("Control+Enter")
    expect(page.locator("#comment-count")).to_have_text("2")
    assert _overflow(page) <= 0

    page.get_by_role("button", name="Send as one message").click()
    expect(page.locator("#sent")).to_be_visible()
    expect(page.locator("#comments")).to_be_hidden()
    expect(cart.locator(".box")).to_have_count(0)
    said = (
        "2 comments on the changes in your folder:\n\n"
        "cart.py:5\n> five\nWhy five?\n\ncart.py:7\n> line 7\nHalf a sentence."
    )
    until(lambda: stack.texts(name, "user") == [said])
    page.get_by_role("link", name="Transcript").last.click()
    expect(page.locator("#transcript")).to_contain_text("Half a sentence.")
    assert complaints == []
    context.close()


def _open_changes(page: Page, stack: Stack, name: str) -> None:
    """Go from the lieutenant's page to its changes since the last commit."""
    page.goto(f"{url_of(stack)}/lieutenants/{name}/")
    page.get_by_role("link", name="Changes").click()
    page.get_by_label("Compare with").select_option("head")
    page.get_by_role("button", name="Compare").click()
    expect(page.locator(".summary")).to_contain_text("5 files")


def _overflow(page: Page) -> int:
    """Return how many pixels the page is wider than the window."""
    found: int = page.evaluate("document.documentElement.scrollWidth - innerWidth")
    return found


@pytest.mark.rotated
def test_list_follows_the_agent(stack: Stack, browser: Browser) -> None:
    stack.create("bella", agent="command", command=["sh", "-c", "echo new > made.txt; cat"])
    folder = Path(stack.get("bella")["folder"])
    make_repository(folder)
    context = signed_in(browser, stack)
    page = context.new_page()
    page.goto(f"{url_of(stack)}/lieutenants/bella/changes/?against=head")
    expect(page.locator(".summary")).to_contain_text("0 files")
    stack.send("bella", "go")
    expect(page.locator(".summary")).to_contain_text("1 file")
    expect(page.locator("details.file .path")).to_have_text("made.txt")
    context.close()
