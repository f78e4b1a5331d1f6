"""A real browser: reef's own host name, proofs, and the audit page."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.reef_site.account_helpers import PASSWORD, change, create_account
from tests.stack import Stack
from tests.waiting import until

pytestmark = pytest.mark.browser

QUIET = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
)
SHOTS = os.environ.get("REEF_TEST_SHOTS", "")


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    # A proof lasts a minute here, so that a test can let it expire.
    with Stack(tmp_path_factory.mktemp("browser"), REEF_PROOF_MINUTES="1") as stack:
        create_account(stack, "ada")
        yield stack


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    program = os.environ.get("REEF_TEST_CHROMIUM", "")
    if not program:
        pytest.fail("no browser: run the tests with `python3 manage.py test`")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=list(QUIET))
        yield browser
        browser.close()


@pytest.fixture
def page(chromium: Browser) -> Iterator[Page]:
    context = chromium.new_context(viewport={"width": 1440, "height": 900})
    context.set_default_timeout(60_000)
    yield context.new_page()
    context.close()


@pytest.fixture
def neighbour() -> Iterator[tuple[str, list[str]]]:
    """Start another web server on this machine, which records the cookies that it gets."""
    cookies: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            cookies.append(self.headers.get("Cookie", ""))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/", cookies
    server.shutdown()
    server.server_close()
    thread.join(10)


def sign_in(page: Page, stack: Stack, name: str = "ada") -> None:
    page.goto(f"http://127.0.0.1:{stack.port}/signin/")
    page.get_by_label("Username").fill(name)
    page.get_by_role("textbox", name="Password").fill(PASSWORD)
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("button", name="Sign out")).to_be_visible()


def save_screenshot(page: Page, name: str) -> None:
    if SHOTS:
        page.screenshot(path=Path(SHOTS) / f"{name}.png", full_page=True)


@pytest.mark.rotated
def test_other_servers_on_this_machine_get_no_cookie(
    page: Page, stack: Stack, neighbour: tuple[str, list[str]]
) -> None:
    url, cookies = neighbour

    sign_in(page, stack)
    assert page.url == f"http://reef.localhost:{stack.port}/"
    page.goto(url)
    page.goto(url.replace("127.0.0.1", "localhost"))
    # The page at the IP address redirects to reef's host name, where a user is signed in.
    page.goto(f"http://127.0.0.1:{stack.port}/lieutenants/")

    assert page.url == f"http://reef.localhost:{stack.port}/lieutenants/"
    expect(page.get_by_role("button", name="Sign out")).to_be_visible()
    assert set(cookies) == {""}


def test_link_signs_in_at_reefs_own_host_name(page: Page, stack: Stack) -> None:
    link = stack.manage("signin").strip()
    assert link.startswith(f"http://reef.localhost:{stack.port}/signin/")

    page.goto(link)

    expect(page.get_by_role("button", name="Sign out")).to_be_visible()
    page.goto(link)
    expect(page.get_by_role("heading", name="Home")).to_be_visible()


def test_expired_proof_is_renewed_during_a_request(page: Page, stack: Stack) -> None:
    stack.create("doomed")
    sign_in(page, stack)
    expire_proofs(stack)

    page.goto(f"http://reef.localhost:{stack.port}/lieutenants/doomed/destroy")
    page.get_by_role("button", name="Destroy").click()
    expect(page.get_by_role("heading", name="Confirm it is you")).to_be_visible()
    save_screenshot(page, "confirm")
    page.get_by_role("textbox", name="Password").fill("wrong")
    page.get_by_role("button", name="Confirm and continue").click()
    expect(page.get_by_text("The password is wrong.")).to_be_visible()
    save_screenshot(page, "confirm-wrong")
    page.get_by_role("textbox", name="Password").fill(PASSWORD)
    page.get_by_role("button", name="Confirm and continue").click()

    until(lambda: stack.client.get("/lieutenant/lieutenants/doomed").status_code == 404, 30)


@pytest.mark.rotated
def test_link_in_another_tab_renews_the_proof(page: Page, stack: Stack) -> None:
    stack.create("fated")
    page.goto(stack.manage("signin").strip())
    expire_proofs(stack)

    page.goto(f"http://reef.localhost:{stack.port}/lieutenants/fated/destroy")
    page.get_by_role("button", name="Destroy").click()
    expect(page.get_by_text("python3 manage.py signin")).to_be_visible()
    save_screenshot(page, "confirm-link")
    other = page.context.new_page()
    other.goto(stack.manage("signin").strip())
    expect(other.get_by_text("Confirmed.")).to_be_visible()
    page.get_by_role("button", name="Continue").click()

    until(lambda: stack.client.get("/lieutenant/lieutenants/fated").status_code == 404, 30)


def expire_proofs(stack: Stack) -> None:
    """Age the proofs of all sessions through Django, because their data is signed."""
    code = (
        "from django.contrib.sessions.models import Session\n"
        "from reef_site.accounts.sessions import SessionStore\n"
        "for row in Session.objects.filter(session_key__startswith='s'):\n"
        "    data = SessionStore().decode(row.session_data)\n"
        "    if 'proved_at' in data:\n"
        "        data['proved_at'] -= 3600\n"
        "        row.session_data = SessionStore().encode(data)\n"
        "        row.save()\n"
    )
    stack.manage("shell", "-c", code)


@pytest.mark.rotated
@pytest.mark.parametrize("width", [390, pytest.param(1440, marks=pytest.mark.thorough)])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_audit_page_needs_no_horizontal_scrolling(
    chromium: Browser, stack: Stack, width: int, scheme: str
) -> None:
    context = chromium.new_context(
        viewport={"width": width, "height": 844},
        color_scheme="dark" if scheme == "dark" else "light",
    )
    context.set_default_timeout(60_000)
    page = context.new_page()
    sign_in(page, stack)
    headers = {"authorization": "Bearer reef_" + "x" * 40}
    for _ in range(3):
        stack.client.get("/lieutenant/lieutenants", headers=headers)
    change(stack, "UPDATE audit_record SET target = ? WHERE id = 1", "x" * 300)

    refusal = page.get_by_text("Unauthorized — invalid token")
    # The edge writes refusals down after it has responded.
    until(lambda: page.goto(f"http://reef.localhost:{stack.port}/audit/") and refusal.count())
    expect(page.get_by_role("heading", name="Audit")).to_be_visible()
    wide = page.evaluate("document.documentElement.scrollWidth > innerWidth")
    save_screenshot(page, f"audit-{width}-{scheme}")
    assert not wide
    page.get_by_label("Refused only").check()
    page.get_by_role("button", name="Filter").click()
    expect(page.get_by_role("link", name="Show all")).to_be_visible()
    assert "refused=on" in page.url
    assert page.locator("tbody").get_by_text("signed in", exact=True).count() == 0
    save_screenshot(page, f"audit-refused-{width}-{scheme}")
    context.close()
