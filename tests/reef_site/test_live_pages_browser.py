"""Pages in a real browser while the server is slow, unavailable or refuses."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator

import pytest
from django.conf import settings
from playwright.sync_api import Browser, BrowserContext, Page, expect

from tests.browsers import SECONDS, complaints_of, launched, signed_in, url_of, viewer_in
from tests.stack import Stack
from tests.waiting import until

pytestmark = pytest.mark.browser

REQUESTS = """(part) => performance.getEntriesByType("resource")
    .filter((each) => each.name.includes(part)).map((each) => each.startTime)"""
SELECT = """(element) => {
  const range = document.createRange();
  range.selectNodeContents(element);
  getSelection().removeAllRanges();
  getSelection().addRange(range);
}"""
SELECTED = "getSelection().toString().trim()"


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with Stack(tmp_path_factory.mktemp("badge"), REEF_OWN_HOST="no") as stack:
        for name in ("ada", "bella"):
            stack.create(name)
        yield stack


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    expect.set_options(timeout=SECONDS * 1000)
    with launched() as browser:
        yield browser


@pytest.fixture
def operator(browser: Browser, stack: Stack) -> Iterator[BrowserContext]:
    context = signed_in(browser, stack)
    yield context
    context.close()


@pytest.fixture(scope="module")
def viewer(browser: Browser, stack: Stack) -> Iterator[BrowserContext]:
    context = viewer_in(browser, stack)
    yield context
    context.close()


def open_page(context: BrowserContext, stack: Stack, path: str) -> Page:
    page = context.new_page()
    page.goto(url_of(stack) + path)
    expect(page.locator("#live")).to_have_text("Live")
    return page


@pytest.mark.rotated
def test_page_that_cannot_fetch_is_delayed_and_then_stale(
    operator: BrowserContext, stack: Stack
) -> None:
    page = open_page(operator, stack, "/lieutenants/ada/")
    live = page.locator("#live")
    page.get_by_label("Message to").fill("hello")
    web = stack.processes["web"].pid
    os.killpg(web, signal.SIGSTOP)
    try:
        page.get_by_role("button", name="Send", exact=True).click()
        expect(page.locator("#send")).to_have_text("Sending…")
        expect(live).to_have_text("Delayed")
        expect(live).to_contain_text("Stale since")
    finally:
        os.killpg(web, signal.SIGCONT)
    expect(live).to_have_text("Live")
    expect(page.locator("#send")).to_have_text("Send")
    expect(page.locator("#refused")).to_have_text("")
    expect(page.get_by_label("Message to")).to_have_value("")


@pytest.mark.thorough
def test_unavailable_server_is_shown_and_polled_less_often(
    operator: BrowserContext, stack: Stack
) -> None:
    page = open_page(operator, stack, "/lieutenants/ada/")
    page.get_by_label("Message to").fill("not lost")
    stack.end("web")
    try:
        page.get_by_role("button", name="Send", exact=True).click()
        expect(page.locator("#refused")).to_contain_text("reef's web process is not there")
        expect(page.locator("#refused")).to_contain_text("Your text is kept.")
        expect(page.get_by_label("Message to")).to_have_value("not lost")
        stack.client.post("/lieutenant/lieutenants/ada/send", json={"message": "x"})
        expect(page.locator("#live")).to_contain_text("Stale since")
        assert len(page.evaluate(REQUESTS, "/_now")) < 12
    finally:
        (stack.run / "web.sock").unlink(missing_ok=True)
        stack.start("web")
    expect(page.locator("#live")).to_have_text("Live")


@pytest.mark.rotated
def test_ended_sign_in_is_shown_and_text_is_kept(operator: BrowserContext, stack: Stack) -> None:
    page = open_page(operator, stack, "/lieutenants/ada/")
    operator.clear_cookies()
    page.get_by_label("Message to").fill("still here")
    page.get_by_role("button", name="Send", exact=True).click()
    expect(page.locator("#refused")).to_contain_text("Your sign-in has ended")
    expect(page.get_by_label("Message to")).to_have_value("still here")
    expect(page.locator("#live")).to_have_text("Signed out")
    page.get_by_role("link", name="Sign in again").click()
    expect(page).to_have_url(f"{url_of(stack)}/signin/?next=%2Flieutenants%2Fada%2F")


@pytest.mark.rotated
def test_selection_survives_live_updates(operator: BrowserContext, stack: Stack) -> None:
    for name in ("ada", "bella"):
        stack.wait_idle(name)
    page = open_page(operator, stack, "/lieutenants/")

    def is_selected() -> bool:
        # The first refresh of a new page may still replace the row.
        page.get_by_role("link", name="bella").evaluate(SELECT)
        return bool(page.evaluate(SELECTED) == "bella")

    until(is_selected)
    stack.client.post("/lieutenant/lieutenants/ada/pause")
    expect(page.locator("#live")).to_have_text("Paused while you select")
    assert page.evaluate(SELECTED) == "bella"
    page.evaluate("getSelection().removeAllRanges()")
    expect(page.get_by_role("row").filter(has_text="ada")).to_contain_text("paused")
    expect(page.locator("#live")).to_have_text("Live")
    stack.client.post("/lieutenant/lieutenants/ada/resume")
    stack.wait_idle("ada")


@pytest.mark.rotated
def test_selection_in_running_output_survives_new_output(
    operator: BrowserContext, stack: Stack
) -> None:
    page = open_page(operator, stack, "/lieutenants/bella/")
    stack.send("bella", "SLOW 4 alpha beta gamma delta epsilon zeta eta theta iota kappa")
    output = page.locator(".is-text .prose")
    expect(output).to_contain_text("beta")
    page.evaluate(
        """() => {
          const box = document.querySelector(".is-text .prose");
          const text = document.createTreeWalker(box, NodeFilter.SHOW_TEXT).nextNode();
          getSelection().setBaseAndExtent(text, 0, text, 5);
        }"""
    )
    selected = page.evaluate(SELECTED)
    expect(output).to_contain_text("kappa")
    stack.wait_idle("bella")
    expect(page.locator("#head .state > .status").first).to_have_text("idle")
    assert page.evaluate(SELECTED) == selected != ""
    page.evaluate("getSelection().removeAllRanges()")
    expect(page.locator(".close").last).to_contain_text("completed")


# How long the stand-in writes, so that the middle of its answer is seen on a slow machine, too.
WRITING_SECONDS = 20


def test_answer_is_formatted_while_it_is_written(operator: BrowserContext, stack: Stack) -> None:
    page = open_page(operator, stack, "/lieutenants/bella/")
    stack.wait_idle("bella")
    words = " ".join(f"w{number}" for number in range(60))
    stack.send(
        "bella", f"SLOW {WRITING_SECONDS} A **bold** word\n\n- first\n- *second* {words} end"
    )
    block = page.locator(".is-text").last
    expect(block.locator("em")).to_have_text("second")
    # The rest follows in the same list item, as plain text first.
    expect(block.locator("li [data-said]")).to_contain_text("w")
    expect(block).to_have_attribute("data-open", "")
    stack.wait_idle("bella")
    expect(block).not_to_have_attribute("data-open", "")
    expect(block.locator("li").last).to_have_text(f"second {words} end")
    expect(block.locator("strong")).to_have_text("bold")
    page.close()


# The page's own module, so that the order of changes and responses can be chosen. Fetched blocks
# are answered by the test: each block by `[revision, is it open, HTML]`.
CHANGES = """async ([url, steps]) => {
  const { onEntry, onDelta } = await import(url);
  const id = 9_000_000;
  const rendered = ([rev, isOpen, html]) => {
    const open = isOpen ? "data-open" : "";
    return `<article class="block is-text" id="e${id}" data-rev="${rev}" ${open}>${html}</article>`;
  };
  const answers = [];
  const respond = (block) => {
    const response = new Response(rendered(block));
    return Object.defineProperty(response, "url", { value: location.href });
  };
  const original = window.fetch;
  window.fetch = (address, ...rest) =>
    String(address).includes(`ids=${id}`)
      ? new Promise((done) => answers.push((block) => done(respond(block))))
      : original(address, ...rest);
  const until = async (isTrue) => {
    while (!isTrue()) await new Promise((done) => setTimeout(done, 20));
  };
  for (const [name, ...values] of steps) {
    const block = document.getElementById(`e${id}`);
    const [rev, text, final] = values;
    if (name === "entry") onEntry({ id, kind: "text", text, final }, rev);
    if (name === "delta") onDelta({ entry: id, text }, rev);
    if (name === "answer") {
      await until(() => answers.length);
      answers.shift()(values);
      await new Promise((done) => setTimeout(done, 200));
    }
    if (name === "asked") await until(() => answers.length >= values[0]);
    if (name === "answer second") answers.splice(1, 1)[0](values);
    if (name === "select") getSelection().selectAllChildren(block);
    if (name === "unselect") getSelection().removeAllRanges();
    await new Promise((done) => setTimeout(done, 100));
  }
  const block = document.getElementById(`e${id}`);
  const found = [block.textContent.trim(), "open" in block.dataset];
  block.remove();
  window.fetch = original;
  return found;
}"""


def formatted(html: str, rest: str = "") -> str:
    return (
        f'<div class="said prose" data-formatted data-continues>{html}</div>'
        f'<span class="said" data-said>{rest}</span>'
    )


@pytest.mark.parametrize(
    ("steps", "text", "is_open"),
    [
        # The block that was fetched is newer than the stream.
        (
            [
                ("entry", 1, "a", False),
                ("answer", 3, True, formatted("<p>aBC</p>")),
                ("delta", 2, "b"),
                ("delta", 3, "c"),
                ("delta", 4, "d"),
            ],
            "aBCd",
            True,
        ),
        # Its end comes while an older state of it is being fetched.
        (
            [
                ("entry", 1, "a", False),
                ("asked", 1),
                ("entry", 3, "", True),
                ("asked", 2),
                ("select",),
                ("answer second", 3, False, "<p>abc</p>"),
                ("answer", 2, True, formatted("<p>ab</p>")),
                ("unselect",),
            ],
            "abc",
            False,
        ),
    ],
    ids=["newer", "selected"],
)
def test_changes_and_fetched_blocks_in_any_order(
    operator: BrowserContext, stack: Stack, steps: list[object], text: str, is_open: bool
) -> None:
    page = open_page(operator, stack, "/lieutenants/bella/")
    stack.wait_idle("bella")
    url = page.locator("script[src*='pages/lieutenant']").evaluate(
        "(script) => new URL('../transcript/blocks.js', script.src).href"
    )
    assert page.evaluate(CHANGES, [url, steps]) == [text, is_open]
    page.close()


def test_refresh_keeps_elements_focus_and_open_details(
    operator: BrowserContext, stack: Stack
) -> None:
    page = open_page(operator, stack, "/lieutenants/bella/")
    stack.wait_idle("bella")
    page.locator("#prompt > summary").click()
    page.evaluate("document.querySelector('#facts').isKept = true")
    messages = page.locator("#facts .sent > li")
    before = messages.count()
    stack.send("bella", "one more")
    expect(messages).to_have_count(before + 1)
    assert page.evaluate("document.querySelector('#facts').isKept")
    assert page.evaluate("document.activeElement.parentElement.id") == "prompt"
    expect(page.locator("#prompt")).to_have_attribute("open", "")


@pytest.mark.rotated
def test_morphing_keeps_entered_values(operator: BrowserContext, stack: Stack) -> None:
    page = open_page(operator, stack, "/lieutenants/")
    state = page.evaluate(
        """async (url) => {
          const { morphChildren } = await import(url);
          const part = document.createElement("div");
          const html = (word) => `<p>${word}</p><input id="i" value="a">
            <input type="checkbox" id="c">
            <select id="s"><option>x</option><option>y</option></select>
            <textarea id="t">a</textarea><details><summary>more</summary></details>`;
          part.innerHTML = html("old");
          document.body.append(part);
          const [input, box, select, text] = part.querySelectorAll("input, select, textarea");
          input.value = text.value = "typed";
          box.checked = part.querySelector("details").open = true;
          select.value = "y";
          input.focus();
          const fresh = document.createElement("template");
          fresh.innerHTML = html("new");
          morphChildren(part, fresh.content);
          return [part.querySelector("p").textContent, input.isConnected, input.value,
            box.checked, select.value, text.value, part.querySelector("details").open,
            document.activeElement === input];
        }""",
        f"{settings.STATIC_URL}reef/swap.js",
    )
    assert state == ["new", True, "typed", True, "y", "typed", True, True]


@pytest.mark.rotated
def test_abort_that_drops_messages_asks_for_confirmation(
    operator: BrowserContext, stack: Stack
) -> None:
    page = open_page(operator, stack, "/lieutenants/bella/")
    stack.send("bella", "SLOW 60 one two three")
    expect(page.locator("#head .state > .status").first).to_have_text("working")
    for text in ("then this", "and that"):
        stack.send("bella", text)
    page.get_by_role("link", name="Abort…").click()
    expect(page.locator("main")).to_contain_text("2 queued messages will be dropped")
    expect(page.locator("main")).to_contain_text("and that")
    page.get_by_role("link", name="Cancel").click()
    assert stack.get("bella")["status"] == "working"
    page.get_by_role("link", name="Abort…").click()
    page.get_by_role("button", name="Abort and drop 2 queued").click()
    expect(page.locator("#head .state > .status").first).to_have_text("idle")


# -- read-only accounts ----------------------------------------------------------------------------


def test_tree_of_read_only_account_updates_without_polling(
    viewer: BrowserContext, stack: Stack
) -> None:
    page = open_page(viewer, stack, "/fleet/")
    row = page.locator(".vm", has_text="bella")
    expect(row.locator(".status").first).to_have_text("live")
    stack.client.post("/lieutenant/lieutenants/bella/pause")
    expect(row.locator(".status").first).to_have_text("paused")
    stack.client.post("/lieutenant/lieutenants/bella/resume")
    expect(row.locator(".status").first).to_have_text("live")
    assert len(page.evaluate(REQUESTS, "/_news")) < 20


def test_pages_hide_forbidden_actions_from_read_only_accounts(
    viewer: BrowserContext, stack: Stack
) -> None:
    page = open_page(viewer, stack, "/lieutenants/ada/")
    complaints = complaints_of(page)
    expect(page.get_by_label("Message to")).to_be_disabled()
    expect(page.locator("#send")).to_be_disabled()
    expect(page.locator("#how-sent")).to_contain_text("Your account is read-only")
    for path in (
        "/",
        "/lieutenants/ada/",
        "/lieutenants/_new",
        "/lieutenants/ada/settings",
        "/lieutenants/ada/destroy",
        "/fleet/",
        "/fleet/1/",
        "/fleet/snapshots/",
        "/provisioning/",
        "/provisioning/new/",
        "/provisioning/findings/",
        "/provisioning/machines/",
        "/provisioning/door/",
        "/config/",
        "/config/REEF_AGENT_MODEL/",
    ):
        answer = page.goto(url_of(stack) + path)
        assert answer
        if answer.status == 404:
            pytest.fail(f"no page {path}")
        # What the account itself has read or snoozed is its own.
        own = "[action$=_read], [action$=snooze]"
        forms = page.locator(f"main form[method=post]:not({own}):visible")
        enabled = forms.locator("button:enabled")
        assert enabled.count() == 0, (path, enabled.all_inner_texts())
        for word in ("New VM", "New lieutenant", "Make the first one"):
            expect(page.get_by_role("link", name=word)).to_have_count(0)
    assert not complaints


ASK = """
from lieutenants.models import Lieutenant, Question
ada = Lieutenant.objects.get(name="ada")
asked = {"kind": "ask", "source": "tool", "text": "Which %s?"}
Question(vm_id=ada.pk, lieutenant=ada, **asked).insert(actor="ada")
"""
GIVEN = """
from lieutenants.models import Question
print(Question.objects.exclude(state="open").get().answer)
"""


def test_home_is_worked_by_keyboard_and_updates(operator: BrowserContext, stack: Stack) -> None:
    page = open_page(operator, stack, "/")
    problems = complaints_of(page)
    expect(page).to_have_title("Home · reef")
    for word in ("name", "port"):
        stack.manage("shell", "-c", ASK % word)
    expect(page).to_have_title("(2) Home · reef")
    icon = page.locator("link[rel=icon]")
    expect(icon).to_have_attribute("href", re.compile(r"^data:image/svg\+xml"))
    # The older question is the more urgent one.
    page.keyboard.press("j")
    expect(page.locator(".need:focus")).to_contain_text("Which name?")
    page.keyboard.press("Enter")
    page.keyboard.type("eve")
    # The next question does not take the text away, and the row of the answered one goes.
    stack.manage("shell", "-c", ASK % "host")
    expect(page).to_have_title("(3) Home · reef")
    page.locator(".need:focus-within").get_by_role("button", name="Answer").click()
    expect(page).to_have_title("(2) Home · reef")
    expect(page.locator("#needs")).not_to_contain_text("Which name?")
    page.keyboard.press("j")
    page.keyboard.press("k")
    expect(page.locator(".need:focus")).to_contain_text("Which port?")
    page.keyboard.press("z")
    expect(page).to_have_title("(1) Home · reef")
    page.keyboard.press("k")
    page.keyboard.press("s")
    expect(page).to_have_title("Home · reef")
    expect(icon).to_have_attribute("href", re.compile(r"favicon"))
    assert stack.manage("shell", "-c", GIVEN).split()[-1] == "eve"
    assert problems == []
    page.close()


@pytest.mark.rotated
def test_palette_goes_anywhere_and_asks_before_actions(
    operator: BrowserContext, stack: Stack
) -> None:
    page = open_page(operator, stack, "/fleet/")
    page.keyboard.press("Control+k")
    page.keyboard.type("bella")
    option = page.get_by_role("option", name="bella", exact=False).first
    expect(option).to_have_attribute("aria-selected", "true")
    page.keyboard.press("Enter")
    expect(page).to_have_url(f"{url_of(stack)}/lieutenants/bella/")
    page.goto(f"{url_of(stack)}/")
    page.keyboard.press("?")
    expect(page.locator("#keys")).to_be_visible()
    page.keyboard.press("Escape")
    page.keyboard.press("Control+k")
    expect(page.get_by_role("group", name="Recent")).to_contain_text("bella")
    page.keyboard.type("destroy bella")
    expect(page.get_by_role("group", name="Dangerous")).to_contain_text("Destroy bella…")
    page.get_by_role("option", name="Destroy bella…").click()
    expect(page.get_by_role("heading", name="Destroy “bella”?")).to_be_visible()
    assert stack.client.get("/lieutenant/lieutenants/bella").json()["status"] != "destroyed"
    page.close()


@pytest.mark.rotated
def test_phone_has_navigation_at_the_bottom_and_an_offline_page(
    operator: BrowserContext, stack: Stack
) -> None:
    page = operator.new_page()
    page.set_viewport_size({"width": 390, "height": 844})
    page.goto(f"{url_of(stack)}/")
    bottom = page.get_by_role("navigation", name="Bottom")
    bottom.get_by_role("link", name="Lieutenants").click()
    expect(page).to_have_url(f"{url_of(stack)}/lieutenants/")
    page.evaluate("navigator.serviceWorker.ready.then(() => true)")
    page.reload()
    operator.set_offline(True)
    try:
        page.goto(f"{url_of(stack)}/")
        expect(page.get_by_role("heading", name="reef cannot be reached")).to_be_visible()
    finally:
        operator.set_offline(False)
    page.get_by_role("link", name="Try again").click()
    expect(page.get_by_role("heading", name="Home")).to_be_visible()
    page.close()


FIND = """
from bootloader.models import Finding
for number in range(3):
    about = {"text": "nobody knows it", "proposal": "adopt"}
    Finding.objects.create(kind="unknown", provider="vers", machine_id=f"m-{number}", **about)
"""


@pytest.mark.rotated
def test_action_for_all_items_of_a_group(operator: BrowserContext, stack: Stack) -> None:
    stack.manage("shell", "-c", FIND)
    page = open_page(operator, stack, "/")
    page.get_by_role("link", name="3 findings").click()
    expect(page.locator(".need")).to_have_count(3)
    page.get_by_role("button", name="Dismiss all 3").click()
    expect(page.get_by_text("Nothing needs you now.")).to_be_visible()
    expect(page.locator("#problem")).to_be_hidden()
    page.close()


# -- time zone and notifications -------------------------------------------------------------------


@pytest.mark.rotated
def test_pages_use_the_zone_of_the_browser(browser: Browser, stack: Stack) -> None:
    context = signed_in(browser, stack, timezone_id="Asia/Tokyo")
    page = open_page(context, stack, "/costs/")
    expect(page.locator("html")).to_have_attribute("data-zone", "Asia/Tokyo")
    expect(page.locator("h1")).to_have_text("Usage")
    page.goto(f"{url_of(stack)}/preferences/")
    page.get_by_label("Time zone").select_option("Europe/Berlin")
    page.get_by_role("button", name="Save").click()
    expect(page.locator("html")).to_have_attribute("data-zone", "Europe/Berlin")
    page.get_by_label("Time zone").select_option("")
    page.get_by_role("button", name="Save").click()
    expect(page.locator("html")).to_have_attribute("data-zone", "Asia/Tokyo")
    context.close()


@pytest.mark.rotated
def test_browser_shows_a_notification(operator: BrowserContext, stack: Stack) -> None:
    operator.grant_permissions(["notifications"], origin=url_of(stack))
    page = operator.new_page()
    page.goto(f"{url_of(stack)}/notifications/")
    complaints = complaints_of(page)
    page.get_by_label("By", exact=True).select_option("browser")
    page.get_by_label("Address").fill("")
    page.get_by_role("button", name="Add").click()
    expect(page.locator("h1")).to_have_text("Browser: open pages of reef")
    expect(page.locator("#allow")).to_be_hidden()
    page.get_by_role("button", name="Send a test").click()
    expect(page.locator("#outbox")).to_contain_text("shown by a page of reef")
    assert complaints == []
    page.get_by_role("link", name="Delete…").click()
    page.get_by_role("button", name="Delete").click()
    expect(page.locator("main")).to_contain_text("Nothing is sent to you yet")
