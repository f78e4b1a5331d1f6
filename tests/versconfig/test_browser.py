"""A real browser at the pages of configuration, wide and narrow."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.stack import Stack
from tests.waiting import until

pytestmark = pytest.mark.browser

QUIET = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
)
SECONDS = 120_000  # limit for waiting, in milliseconds
SECRET = "sk-test-0123456789-abcdefghij"
PLANT = """
from tests.versconfig.sshkeys import ED25519
from versconfig.services import Target, put, build_change
from versconfig.models import Scope
from vmtree import services as tree
root = tree.create(tree.NewNode("root", "infra_vm", vm_id="root"), by="tests")
tree.create(tree.NewNode("ada", "lieutenant", vm_id="ada", parent_vm_id="root"), by="tests")
long_model = "provider/a-model-with-quite-a-long-name-" + "x" * 60
put(build_change("REEF_AGENT_MODEL", long_model), by="tests")
put(build_change("REEF_AGENT_MODEL", "p/root", Target(Scope.SUBTREE, root)), by="tests")
put(build_change("REEF_SSH_AUTHORIZED_KEYS", ED25519 + "a" * 200), by="tests")
"""


class Pages(Stack):
    """A reef with the processes that pages need."""

    def __enter__(self) -> Self:
        self.manage("migrate", "--verbosity", "0")
        for name in ("redis", "web", "edge"):
            self.start(name)
        until(self.is_responding, 30)
        return self

    def __exit__(self, *_: object) -> None:
        for name in ("edge", "web", "redis"):
            self.end(name)
        self.client.close()


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pages]:
    home = tmp_path_factory.mktemp("home")
    (home / ".vers").mkdir()
    (home / ".vers" / "keys.json").write_text('{"keys": ')
    with Pages(tmp_path_factory.mktemp("config"), HOME=str(home)) as stack:
        stack.manage("shell", "-c", PLANT)
        yield stack


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    program = os.environ.get("REEF_TEST_CHROMIUM", "/usr/bin/chromium")
    if not Path(program).exists():
        pytest.fail("no browser: run the tests with `python3 manage.py test`")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=list(QUIET))
        yield browser
        browser.close()


@pytest.fixture(params=[pytest.param(1440, marks=pytest.mark.thorough), 390])
def page(request: pytest.FixtureRequest, browser: Browser, stack: Pages) -> Iterator[Page]:
    """Provide a page in a wide or narrow window; script errors and violations of the CSP fail the
    test.
    """
    expect.set_options(timeout=SECONDS)
    context = browser.new_context(
        viewport={"width": request.param, "height": 900}, base_url=f"http://127.0.0.1:{stack.port}"
    )
    context.set_default_timeout(SECONDS)
    page = context.new_page()
    complaints: list[str] = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on(
        "console",
        lambda said: complaints.append(said.text) if "Content Security" in said.text else None,
    )
    secret = stack.manage("signin").split()[-1].rpartition("/")[2]
    page.goto(f"/signin/{secret}")
    yield page
    context.close()
    assert not complaints


@pytest.mark.rotated
def test_pages_need_no_horizontal_scrolling(page: Page) -> None:
    for path in (
        *("", "?vm=ada", "history/", "REEF_AGENT_MODEL/?vm=ada", "REEF_SSH_AUTHORIZED_KEYS/"),
        *("ANTHROPIC_API_KEY/", "REEF_PROVISION_AT_ONCE/"),
    ):
        page.goto(f"/config/{path}")
        wide = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        assert page.evaluate(wide) == 0, path


@pytest.mark.rotated
def test_value_is_set_for_a_lieutenant_and_undone(page: Page) -> None:
    page.goto("/config/")
    expect(page.get_by_text("~/.vers/keys.json: is not JSON").first).to_be_visible()
    page.get_by_role("searchbox").fill("ada")
    page.get_by_role("button", name="Show").click()
    page.get_by_role("link", name="REEF_AGENT_MODEL").first.click()
    expect(page.locator(".chain .is-in-effect")).to_contain_text("subtree of root")

    page.get_by_label("New value").fill("p/of-ada")
    page.get_by_role("button", name="Preview changes…").click()
    expect(page.get_by_role("heading", level=1)).to_have_text(
        "Set REEF_AGENT_MODEL for lieutenant ada?"
    )
    expect(page.get_by_text("1 of the existing VMs and lieutenants: ada.")).to_be_visible()
    page.get_by_role("button", name="Save").click()
    expect(page.locator(".chain .is-in-effect")).to_contain_text("lieutenant ada")
    expect(page.locator(".chain .is-behind").first).to_contain_text(
        "overridden by store, lieutenant"
    )

    page.get_by_role("link", name="Undo…").first.click()
    page.get_by_role("button", name="Undo").click()
    expect(page.locator(".chain .is-in-effect")).to_contain_text("subtree of root")


def test_secret_is_never_shown_after_input(page: Page, stack: Pages) -> None:
    page.goto("/config/ANTHROPIC_API_KEY/")
    field = page.get_by_label("New value")
    assert field.get_attribute("type") == "password"
    field.fill(SECRET)
    page.get_by_role("button", name="Preview changes…").click()
    expect(page.get_by_text("sk-test...").first).to_be_visible()
    assert SECRET not in page.content()
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_text("set for the fleet.")).to_be_visible()
    assert SECRET not in page.content()
    page.get_by_role("button", name="Remove…").click()
    page.get_by_role("button", name="Remove").click()
    expect(page.get_by_text("removed for the fleet.")).to_be_visible()
    for file in stack.data.rglob("*"):
        if file.is_file():
            assert SECRET.encode() not in file.read_bytes(), file
