"""The home page in a real browser: each action by keys and by thumb, and its count on all pages."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Browser, BrowserContext, Locator, Page, expect

from tests.browsers import SECONDS, complaints_of, launched, signed_in, url_of
from tests.stack import Stack
from tests.waiting import until

pytestmark = pytest.mark.browser

Press = Callable[[Page, Locator, str], None]

# The least size of what a thumb hits, in pixels.
THUMB = 44
FAILS = "ERROR 400 no"
ACTIONS = "button:visible, a.button:visible, summary:visible"

ITEMS = """
from bootloader.models import Finding, Provisioning
from lieutenants.models import Lieutenant, Question, UnknownAgent
from reef_site.attention.models import Seen, Snooze
for model in (Finding, Provisioning, UnknownAgent, Seen, Snooze):
    model.objects.all().delete()
about = {"text": "nobody knows it", "proposal": "adopt"}
Finding.objects.create(kind="unknown", provider="vers", machine_id="m-1", **about)
about = {"profile": "none", "provider": "vers", "actor": "tests", "state": "failed"}
Provisioning.objects.create(name="boot-1", reason="commit not found", **about)
about = {"vm_id": "gone", "host": "gone", "directory": "/", "can_be_taken_up": True}
UnknownAgent.objects.create(run="run-1", name="stray", why="lost", **about)
carl = Lieutenant.objects.get(name="carl")
for kind, text in (("ask", "Which name?"), ("confirm", "Delete it?")):
    asked = {"kind": kind, "source": "tool", "text": text}
    Question(vm_id=carl.pk, lieutenant=carl, **asked).insert(actor="carl")
"""
RESULTS = """
from bootloader.models import Finding, Provisioning
from lieutenants.models import Question, UnknownAgent
answers = Question.objects.exclude(state="open").order_by("-decided_at").values_list("answer")
print("|".join([
    str(sorted(str(each) for (each,) in answers[:2])),
    str(Finding.objects.get().decided_at is not None),
    str(Provisioning.objects.get().state != "failed"),
    str(bool(UnknownAgent.objects.get().requested_by)),
]))
"""
ASK = """
from lieutenants.models import Lieutenant, Question
carl = Lieutenant.objects.get(name="carl")
asked = {"kind": "ask", "source": "tool", "text": "Which port?"}
Question(vm_id=carl.pk, lieutenant=carl, **asked).insert(actor="carl")
"""


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with Stack(tmp_path_factory.mktemp("home"), REEF_OWN_HOST="no") as stack:
        for name in ("ada", "bella", "carl"):
            stack.create(name)
        yield stack


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    expect.set_options(timeout=SECONDS * 1000)
    with launched() as browser:
        yield browser


@pytest.fixture
def desk(browser: Browser, stack: Stack) -> Iterator[BrowserContext]:
    context = signed_in(browser, stack)
    yield context
    context.close()


@pytest.fixture
def phone(browser: Browser, stack: Stack) -> Iterator[BrowserContext]:
    context = signed_in(browser, stack, has_touch=True)
    yield context
    context.close()


def press_by_key(page: Page, row: Locator, label: str) -> None:
    """Walk to the row with j, and press the number that its action shows."""
    for _ in range(page.locator("[data-need]").count()):
        page.keyboard.press("k")
    while not row.evaluate("(row) => row === document.activeElement"):
        page.keyboard.press("j")
    number = button_in(row, label).get_attribute("data-n")
    assert number, f"no key for {label}"
    page.keyboard.press(number)


def press_by_thumb(page: Page, row: Locator, label: str) -> None:
    """Press the action, after a look at the sizes of all that a thumb can hit in the row.

    By a click: headless Chromium crashes now and then when what was tapped goes.
    """
    for each in row.locator(ACTIONS).all():
        box = each.bounding_box()
        assert box, each
        size = min(box["width"], box["height"])
        assert size >= THUMB, (each.inner_text(), box)
    button_in(row, label).click()


def button_in(row: Locator, label: str) -> Locator:
    return row.locator(ACTIONS).filter(has_text=re.compile(rf"^\s*{label}")).first


def row_of(page: Page, text: str) -> Locator:
    return page.locator("[data-need]").filter(has_text=text)


def bring_about(stack: Stack) -> None:
    """Bring about an item of each kind: one lieutenant has crashed, and one task has failed."""
    stack.send("bella", "DIE 3")
    stack.send("ada", FAILS)
    until(lambda: stack.get("bella")["status"] == "error", SECONDS)
    until(lambda: stack.get("ada").get("trouble"), SECONDS)
    stack.manage("shell", "-c", ITEMS)


@pytest.mark.rotated
@pytest.mark.parametrize("means", ["keys", "thumb"])
def test_each_action_of_home(means: str, request: pytest.FixtureRequest, stack: Stack) -> None:
    context = request.getfixturevalue("desk" if means == "keys" else "phone")
    press: Press = press_by_key if means == "keys" else press_by_thumb
    bring_about(stack)
    page = context.new_page()
    if means == "thumb":
        page.set_viewport_size({"width": 390, "height": 844})
    problems = complaints_of(page)
    page.goto(url_of(stack))
    expect(page.locator("#live")).to_have_text("Live")

    name = row_of(page, "Which name?")
    if means == "keys":
        press_by_key(page, name, "Answer")  # an empty answer is refused, and the row stays
        expect(page.locator("#problem")).to_be_visible()
        name.focus()
        page.keyboard.press("Enter")
        page.keyboard.type("eve")
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")
    else:
        name.locator("textarea").tap()
        page.keyboard.type("eve")
        press(page, name, "Answer")
    expect(name).to_have_count(0)
    for text, label in (
        ("Delete it?", "Yes"),
        ("bella", "Restart"),
        ("boot-1", "Retry"),
        ("m-1", "Dismiss"),
    ):
        row = page.locator("#needs [data-need]").filter(has_text=text)
        press(page, row, label)
        expect(row).to_have_count(0)
    stray = row_of(page, "stray")
    press(page, stray, "Take up")
    # There is no such machine, and the row says so.
    expect(stray).not_to_contain_text("lost")
    ada = page.locator("#needs [data-need]").filter(has_text="ada")
    sent, cause = stack.texts("ada", "user").count(FAILS), ada.locator("[name=cause]")
    earlier = cause.input_value()
    press(page, ada, "Retry")
    until(lambda: stack.texts("ada", "user").count(FAILS) == sent + 1, SECONDS)
    # It fails again, which is another cause.
    expect(cause).not_to_have_value(earlier)
    if means == "keys":
        ada.focus()
        page.keyboard.press("s")
        expect(ada).to_have_count(0)
        stray.focus()
        page.keyboard.press("z")
    else:
        press(page, ada, "Seen")
        expect(ada).to_have_count(0)
        press(page, stray, "Snooze")
        press(page, stray, "1 hour")
    expect(page.get_by_text("Nothing needs you now.")).to_be_visible()
    finished = page.locator("[data-need]").filter(has_text="ada")
    press(page, finished, "Read")
    expect(finished).to_have_count(0)
    assert results(stack) == ["['True', 'eve']", "True", "True", "True"]
    assert problems == []


def results(stack: Stack) -> list[str]:
    return stack.manage("shell", "-c", RESULTS).split("\n")[-2].split("|")


@pytest.mark.rotated
def test_count_is_in_the_titles_of_all_windows(desk: BrowserContext, stack: Stack) -> None:
    hidden, page = desk.new_page(), desk.new_page()
    for each, path in ((hidden, "/config/"), (page, "/docs/")):
        each.goto(url_of(stack) + path)
    before = int((re.match(r"\((\d+)\)", page.title()) or ["", "0"])[1])
    stack.manage("shell", "-c", ASK)
    for each in (page, hidden):
        expect(each).to_have_title(re.compile(rf"^\({before + 1}\) "))
        icon = each.locator("link[rel=icon]")
        expect(icon).to_have_attribute("href", re.compile(r"^data:image/svg"))
    # The next page knows it from the start, and asks only when something changes.
    page.goto(f"{url_of(stack)}/lieutenants/")
    expect(page).to_have_title(re.compile(rf"^\({before + 1}\) "))
    asked = """performance.getEntriesByType("resource")
        .filter((each) => each.name.includes("/attention/count")).length"""
    expect(page.locator("#live")).to_have_text("Live")
    assert page.evaluate(asked) == 0


def test_answered_row_is_shown_as_done_before_the_page_is_updated(
    desk: BrowserContext, stack: Stack
) -> None:
    stack.manage("shell", "-c", ASK)
    page = desk.new_page()
    page.goto(url_of(stack))
    row = row_of(page, "Which port?").first
    row.locator("textarea").fill("8080")
    page.route("**/parts/**", lambda _route: None)  # stays without an answer
    button_in(row, "Answer").click()
    expect(row).to_have_class(re.compile(r"\bis-sent\b"))
    assert row.evaluate("(row) => row.inert")
    page.close()
