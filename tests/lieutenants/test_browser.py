"""A real browser at the whole of reef: `up --demo`, the real agent, headless Chromium."""

from __future__ import annotations

import base64
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import httpx
import pytest
from playwright.sync_api import (
    Browser,
    BrowserContext,
    FilePayload,
    Page,
    expect,
    sync_playwright,
)

from reef_site.launcher import lockfile
from tests.conftest import real_agent
from tests.pictures import square_png
from tests.stack import free_port
from tests.waiting import until

pytestmark = [pytest.mark.browser, pytest.mark.agent]

CHECKOUT = Path(__file__).resolve().parents[2]
QUIET = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
)
SECONDS = 90_000  # of patience, in milliseconds
END_OF_HELLO = "give reef a key such as"
EXTENSION = """export default function (pi) {
  const command = (name, said, open) => pi.registerCommand(name, {
    handler: async (args, ctx) => ctx.ui.notify(`${said}: ${await open(ctx.ui)}`),
  });
  command("choose", "chosen", (ui) => ui.select("Which colour?", ["red", "green"]));
  command("edit", "edited", (ui) => ui.editor("Edit", "one\\ntwo"));
  command("sure", "sure", (ui) => ui.confirm("Really?", "It is gone then."));
}
"""


@dataclass
class House:
    """A running reef with the demo model."""

    data: Path
    port: int
    env: dict[str, str]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def link(self) -> str:
        """A fresh sign-in link, from the command that operators use."""
        words = [sys.executable, "manage.py", "signin"]
        done = subprocess.run(
            words, cwd=CHECKOUT, env=self.env, capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    def api(self, method: str, path: str, **body: object) -> httpx.Response:
        token = (self.data / "root-token").read_text()
        headers = {"Authorization": f"Bearer {token}"}
        path = f"{self.url}/lieutenant/lieutenants{path}"
        return httpx.request(method, path, json=body, headers=headers, timeout=60)

    def enlist(self, name: str) -> None:
        answer = self.api("POST", "?wait=30", name=name, role="tests", local=True)
        assert answer.json()["status"] == "idle", answer.text

    def kill(self, word: str) -> None:
        """End one of the processes; `up` starts it again."""
        for pid in lockfile.tagged(self.data):
            if word in Path(f"/proc/{pid}/cmdline").read_text().split("\0"):
                os.kill(pid, signal.SIGKILL)
                return
        raise AssertionError(f"no process with {word}")


@pytest.fixture(scope="module")
def house() -> Iterator[House]:
    with tempfile.TemporaryDirectory(prefix="reef-") as folder:
        keep = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
        env = {**keep, "REEF_DATA_DIR": folder, "PI_PATH": real_agent("160")}
        house = House(Path(folder), free_port(), env)
        words = [sys.executable, "manage.py", "up", "--demo", "--port", str(house.port)]
        with (house.data / "up.txt").open("wb") as log:
            up = subprocess.Popen(words, cwd=CHECKOUT, env=env, stdout=log, stderr=log)
        try:
            until(lambda: _well(house), 180)
            yield house
            house.api("POST", "/destroy-all")
            until(lambda: not list(house.data.glob("lieutenants/*/runs/*/control.sock")), 120)
        finally:
            up.terminate()
            up.wait(60)


def _well(house: House) -> bool:
    try:
        # While web begins, the edge answers with an error alone.
        return bool(httpx.get(f"{house.url}/health").json().get("status") == "ok")
    except httpx.HTTPError:
        return False


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    program = os.environ.get("REEF_TEST_CHROMIUM", "")
    if not program:
        pytest.fail("no browser: run the tests with `python3 manage.py test`")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=list(QUIET))
        expect.set_options(timeout=SECONDS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def signed_in(browser: Browser, house: House) -> BrowserContext:
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    context.set_default_timeout(SECONDS)
    page = context.new_page()
    page.goto(house.link())
    page.close()
    return context


@pytest.fixture
def page(signed_in: BrowserContext) -> Iterator[Page]:
    """A tab that must not complain: no script error, nothing that the site's policy forbids."""
    expect.set_options(timeout=SECONDS)
    page = signed_in.new_page()
    complaints: list[str] = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on(
        "console",
        lambda said: complaints.append(said.text) if "Content Security" in said.text else None,
    )
    yield page
    page.close()
    assert not complaints


def send(page: Page, text: str) -> None:
    page.get_by_label("Message to").fill(text)
    page.get_by_label("Message to").press("Control+Enter")
    expect(page.get_by_label("Message to")).to_have_value("")


def status(page: Page, word: str) -> None:
    expect(page.locator("#head .state > .status").first).to_have_text(word)


def transcript(page: Page) -> str:
    """The blocks' HTML without what differs from one look to the next."""
    html = page.locator("#blocks").inner_html()
    return re.sub(r'data-rev="\d+"|<time.*?</time>| (open|data-auto)=""|\s+', "", html)


def answer_is_whole(page: Page) -> None:
    """The streamed pieces equal the text that the server has, each piece once."""
    expect(page.locator("#blocks .close").last).to_contain_text("completed")
    live = transcript(page)
    page.reload()
    assert transcript(page) == live
    assert page.locator("#blocks").inner_text().count(END_OF_HELLO) == 1


def hand_over(page: Page, kind: str, event: str, key: str, text: str = "") -> bool:
    """Paste or drop an image, and a text, onto the composer, as a browser reports it.

    Return whether the page takes it, instead of the browser.
    """
    is_left: bool = page.evaluate(
        """([kind, event, key, data, text]) => {
            const bytes = Uint8Array.from(atob(data), (sign) => sign.charCodeAt(0));
            const files = new DataTransfer();
            files.items.add(new File([bytes], `${event}.png`, { type: "image/png" }));
            if (text) files.setData("text/plain", text);
            const options = { [key]: files, bubbles: true, cancelable: true };
            const message = document.getElementById("message");
            return message.dispatchEvent(new window[kind](event, options));
        }""",
        [kind, event, key, base64.b64encode(square_png()).decode(), text],
    )
    return not is_left


@pytest.mark.rotated
def test_a_newcomers_first_visit(browser: Browser, house: House) -> None:
    # The first test of this file: the page is another one when there was a lieutenant.
    context = browser.new_context()
    context.set_default_timeout(SECONDS)
    page = context.new_page()
    page.goto(house.url)
    expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
    page.goto(house.link())
    expect(page.get_by_text("Demo:").first).to_be_visible()
    page.get_by_role("link", name="Make the first one").click()
    page.get_by_label("Name").fill("not a name")
    page.get_by_label("Role").fill("shows reef to newcomers")
    page.get_by_role("button", name="Create").click()
    expect(page.locator("#id_name_error")).to_contain_text("letter or digit first")
    page.get_by_label("Name").fill("first")
    page.get_by_role("button", name="Create").click()
    status(page, "idle")
    page.evaluate("window.notReloaded = true")

    send(page, "Tell me something")
    growing = page.locator(".is-text[data-open]")
    growing.wait_for()
    length = len(growing.inner_text())
    until(lambda: not growing.count() or len(growing.inner_text()) > length)
    status(page, "idle")
    expect(page.locator(".is-text strong")).to_have_text("demo model")
    expect(page.locator(".close")).to_contain_text("completed")
    send(page, "List the files")
    expect(page.locator(".tool.is-done")).to_be_visible()
    status(page, "idle")
    expect(page.locator("#facts .message-state").first).to_have_text("accepted")
    expect(page.locator("#facts .sum td").last).not_to_have_text("$0")

    page.get_by_role("button", name="Pause").click()
    status(page, "paused")
    page.get_by_label("Message to").fill("too late")
    page.get_by_role("button", name="Send", exact=True).click()
    expect(page.locator("#refused")).to_contain_text("paused")
    expect(page.get_by_label("Message to")).to_have_value("too late")
    page.get_by_role("button", name="Resume").click()
    status(page, "idle")
    send(page, "What did I say?")
    expect(page.locator(".is-text").last).to_contain_text("Tell me something")
    status(page, "idle")
    assert page.evaluate("window.notReloaded"), "all of it on one and the same page"

    page.get_by_role("link", name="Destroy").click()
    page.get_by_role("button", name="Destroy").press("Enter")
    status(page, "destroyed")
    expect(page.locator(".is-user")).to_have_count(3)
    context.close()


@pytest.mark.rotated
def test_images_are_chosen_pasted_and_dropped(page: Page, house: House) -> None:
    house.enlist("eye")
    page.goto(f"{house.url}/lieutenants/eye/")
    chosen = page.locator("#chosen img")
    file: FilePayload = {"name": "a.png", "mimeType": "image/png", "buffer": square_png()}
    page.set_input_files("#images", file)
    expect(chosen).to_have_count(1)
    assert hand_over(page, "ClipboardEvent", "paste", "clipboardData")
    assert hand_over(page, "DragEvent", "drop", "dataTransfer")
    expect(chosen).to_have_count(3)
    # Spreadsheets copy a picture beside the text.
    assert not hand_over(page, "ClipboardEvent", "paste", "clipboardData", "a\tb")
    expect(chosen).to_have_count(3)
    page.get_by_role("button", name="Remove a.png").click()
    expect(chosen).to_have_count(2)

    send(page, "What is on these?")
    expect(page.locator("#chosen")).to_be_hidden()
    shown = page.locator(".is-user .pictures img")
    expect(shown).to_have_count(2)
    until(lambda: shown.last.evaluate("image => image.naturalWidth"))
    status(page, "idle")


@pytest.mark.rotated
def test_images_that_cannot_be_sent_are_refused_at_once(page: Page, house: House) -> None:
    house.enlist("picky")
    page.goto(f"{house.url}/lieutenants/picky/")
    chosen, refused = page.locator("#chosen img"), page.locator("#refused")
    image: FilePayload = {"name": "a.png", "mimeType": "image/png", "buffer": square_png()}
    drawing: FilePayload = {"name": "logo.svg", "mimeType": "image/svg+xml", "buffer": b"<svg/>"}
    page.set_input_files("#images", [image, drawing])
    expect(refused).to_have_text("logo.svg: must be PNG, JPEG, GIF or WebP")
    expect(chosen).to_have_count(1)

    page.set_input_files("#images", [image] * 9)
    expect(refused).to_have_text("At most 8 images can be sent with a message.")
    page.get_by_label("Message to picky").fill("What is on these?")
    page.get_by_role("button", name="Send", exact=True).click()
    expect(refused).to_be_visible()
    page.get_by_role("button", name="Remove a.png").first.click()
    expect(refused).to_be_hidden()

    large: FilePayload = {**image, "buffer": square_png() + bytes(5_000_000)}
    page.set_input_files("#images", large)
    expect(refused).to_have_text("The images have 5.1 MB, at most 5 MB can be sent with a message.")
    page.get_by_role("button", name="Send", exact=True).click()
    page.get_by_role("button", name="Remove a.png").click()
    expect(refused).to_be_hidden()
    expect(page.locator(".is-user")).to_have_count(0)


@pytest.mark.rotated
def test_a_page_loaded_in_the_middle_of_an_answer_goes_on_without_a_seam(
    house: House, page: Page
) -> None:
    house.enlist("midway")
    page.goto(f"{house.url}/lieutenants/midway/")
    send(page, "Say something long")
    for _ in range(3):
        page.locator(".is-text[data-open]").wait_for()
        page.reload()
    status(page, "idle")
    answer_is_whole(page)


@pytest.mark.rotated
def test_a_page_whose_stream_breaks_off_comes_back_by_itself(house: House, page: Page) -> None:
    house.enlist("cut")
    page.goto(f"{house.url}/lieutenants/cut/")
    badge = page.locator("#live")
    expect(badge).to_have_text("Live")
    send(page, "Say something long")
    page.locator(".is-text[data-open]").wait_for()
    house.kill("reef_site.edge")
    expect(badge).to_have_text("Reconnecting…")
    expect(badge).to_have_text("Live")
    status(page, "idle")
    answer_is_whole(page)


@pytest.mark.rotated
def test_an_answer_is_aborted_and_the_queue_shown(house: House, page: Page) -> None:
    house.enlist("stopped")
    page.goto(f"{house.url}/lieutenants/stopped/")
    send(page, "Say something long")
    page.locator(".is-text[data-open]").wait_for()
    page.get_by_text("Follow-up", exact=True).click()
    send(page, "and then this")
    expect(page.locator("#queue")).to_contain_text("and then this")
    page.get_by_role("button", name="Abort").click()
    status(page, "idle")
    expect(page.locator(".close.is-aborted")).to_be_visible()
    expect(page.locator("#queue")).not_to_contain_text("and then this")


def test_the_list_follows_what_happens(house: House, page: Page) -> None:
    page.goto(f"{house.url}/lieutenants/")
    expect(page.locator("#live")).to_have_text("Live")
    page.get_by_role("searchbox").fill("half a wo")
    house.enlist("seen")
    row = page.get_by_role("row").filter(has_text="seen")
    expect(row).to_contain_text("idle")
    house.api("POST", "/seen/pause")
    expect(row).to_contain_text("paused")
    house.api("DELETE", "/seen")
    expect(row).to_have_count(0)
    assert page.get_by_role("searchbox").input_value() == "half a wo"


@pytest.mark.rotated
def test_the_reader_is_left_where_they_read(house: House, page: Page) -> None:
    house.enlist("long")
    for number in range(4):
        house.api("POST", "/long/send", message=f"Number {number}\n" + "line\n" * 30)
    page.goto(f"{house.url}/lieutenants/long/")
    expect(page.locator(".is-user")).to_have_count(4)
    status(page, "idle")
    at_the_end = "scrollY + innerHeight >= document.documentElement.scrollHeight - 60"
    until(lambda: page.evaluate(at_the_end), 30)
    page.evaluate("scrollTo(0, 100)")
    newest = page.get_by_role("button", name="Jump to newest")
    expect(newest).to_be_visible()
    send_by = house.api("POST", "/long/send", message="one more")
    assert send_by.status_code == 200
    expect(page.locator(".is-user")).to_have_count(5)
    assert page.evaluate("scrollY") == 100
    newest.click()
    until(lambda: page.evaluate(at_the_end), 30)
    expect(newest).to_be_hidden()


def look_away(page: Page, *, away: bool) -> None:
    """Send the page the browser's event for a tab that goes to the background or comes back."""
    page.evaluate(
        """away => {
          Object.defineProperty(document, "hidden", {value: away, configurable: true});
          document.dispatchEvent(new Event("visibilitychange"));
        }""",
        away,
    )


@pytest.mark.rotated
def test_a_tab_that_nobody_looks_at_gives_its_connection_back(house: House, page: Page) -> None:
    house.enlist("hidden")
    page.goto(f"{house.url}/lieutenants/hidden/")
    expect(page.locator("#live")).to_have_text("Live")
    page.evaluate(
        """() => {
          const post = MessagePort.prototype.postMessage;
          MessagePort.prototype.postMessage = function (message) {
            if (message.do === "bye") window.left = true;
            post.call(this, message);
          };
        }"""
    )
    look_away(page, away=True)
    until(lambda: page.evaluate("window.left"), 30)
    house.api("POST", "/hidden/send", message="hello")
    until(lambda: house.api("GET", "/hidden").json()["status"] == "idle", 30)
    assert not page.locator(".is-user").count()
    look_away(page, away=False)
    answer_is_whole(page)


def test_a_draft_outlives_a_question(house: House, page: Page) -> None:
    house.enlist("drafted")
    page.goto(f"{house.url}/lieutenants/drafted/")
    page.get_by_label("Message to").fill("not sent yet")
    page.get_by_role("link", name="Destroy").click()
    page.get_by_role("link", name="Cancel").click()
    expect(page.get_by_label("Message to")).to_have_value("not sent yet")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_small_screens_need_no_sideways_scrolling(house: House, page: Page, scheme: str) -> None:
    name = f"a-rather-long-name-for-a-small-screen-{scheme}"
    house.enlist(name)
    house.api("POST", f"/{name}/send", message="x" * 300)
    page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
    page.set_viewport_size({"width": 390, "height": 844})
    for path in ("/", "/lieutenants/", "/lieutenants/_new", f"/lieutenants/{name}/"):
        page.goto(house.url + path)
        expect(page.locator("main")).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth") == 390, path
    assert page.get_by_label("Message to").is_visible()
    page.goto(f"{house.url}/audit/")
    current = page.get_by_role("navigation", name="Main").get_by_role("link", name="Audit")
    expect(current).to_be_in_viewport(ratio=1)


@pytest.mark.rotated
def test_without_scripts_all_of_it_works_by_forms(
    browser: Browser, signed_in: BrowserContext, house: House
) -> None:
    house.enlist("plain")
    state = signed_in.storage_state()
    context = browser.new_context(java_script_enabled=False, storage_state=state)
    page = context.new_page()
    page.goto(f"{house.url}/lieutenants/plain/")
    page.get_by_label("Message to").fill("hello")
    page.get_by_role("button", name="Send", exact=True).click()
    expect(page.locator("#facts")).to_contain_text("hello")

    def said() -> bool:
        page.reload()
        return "demo model" in page.locator("#blocks").inner_text()

    until(said, 20)
    until(lambda: house.api("GET", "/plain").json()["status"] == "idle")
    page.reload()
    page.get_by_role("button", name="Pause").click()
    status(page, "paused")
    context.close()


def fits(page: Page) -> bool:
    """Return whether nothing of the page is beyond its right edge."""
    return bool(page.evaluate("document.documentElement.scrollWidth <= innerWidth"))


@pytest.mark.rotated
@pytest.mark.parametrize(
    ("width", "scheme"), [(1440, "light"), pytest.param(390, "dark", id="390-dark")]
)
def test_person_answers_the_agents_dialogs(
    page: Page, house: House, width: int, scheme: Literal["light", "dark"]
) -> None:
    (house.data / "pi" / "extensions").mkdir(exist_ok=True)
    (house.data / "pi" / "extensions" / "dialogs.ts").write_text(EXTENSION)
    name = f"quiz-{width}"
    house.enlist(name)
    page.set_viewport_size({"width": width, "height": 900})
    page.emulate_media(color_scheme=scheme)
    page.goto(f"{house.url}/questions/")
    expect(page.locator("#open")).to_contain_text("No agent waits for an answer.")
    asked = page.locator("#open .question")

    house.api("POST", f"/{name}/send", message="/choose")
    expect(asked).to_contain_text("Which colour?")
    expect(page.locator("#nav-questions")).to_have_text("1")
    assert fits(page)
    asked.get_by_role("button", name="green").click()
    expect(asked).to_have_count(0)
    expect(page.locator("#decisions tbody tr").first).to_contain_text("green")
    expect(page.locator("#nav-questions")).to_have_text("")

    house.api("POST", f"/{name}/send", message="/edit")
    expect(asked.get_by_label("Answer")).to_have_value("one\ntwo")
    asked.get_by_label("Answer").fill("three")
    asked.get_by_role("button", name="Answer").click()
    expect(asked).to_have_count(0)

    page.goto(f"{house.url}/lieutenants/{name}/")
    send(page, "/sure")
    mine = page.locator("#asks .question")
    expect(mine).to_contain_text("Really?")
    if width > 720:
        expect(page.locator("#head .waits")).to_contain_text("a person to answer “Really?")
    assert fits(page)
    mine.get_by_role("button", name="Yes").click()
    expect(mine).to_have_count(0)
    for text in ("chosen: green", "edited: three", "sure: true", "“Really?”: admin answered: yes"):
        expect(page.locator("#blocks")).to_contain_text(text)
    page.goto(f"{house.url}/questions/")
    expect(page.locator("tbody tr")).to_have_count(3 if width == 1440 else 6)
    expect(page.locator("tbody tr").first).to_contain_text("yes")
    assert fits(page)
