"""A real browser at lists of 5,000 rows: keys, choosing, live updates, plans, narrow screens."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.conf import settings
from django.contrib.auth.models import User
from django.test import Client
from django.utils import timezone
from playwright.sync_api import Page, expect
from pytest_django.live_server_helper import LiveServer

from lieutenants.models import Lieutenant
from lieutenants.states import Status
from reef_site.common import broker
from reef_site.dashboard import root_row
from reef_site.lists.models import BulkRun
from tests.browsers import SECONDS, complaints_of, launched
from tests.lieutenants.rows import enlist
from tests.reef_site.lists.conftest import Worker
from tests.reef_site.test_accessibility_browser import RUN, axe_script
from tests.vmtree.planted import plant

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]
ROWS = 5000
REFRESH = "document.getElementById('rows').dispatchEvent(new Event('reef:changed'))"
OVERFLOW = "document.documentElement.scrollWidth - document.documentElement.clientWidth"


def enlist_many() -> None:
    now = timezone.now()
    Lieutenant.objects.bulk_create(
        [
            Lieutenant(
                name=f"agent-{number:04}",
                role="does what it is told",
                host="here",
                status=Status.ERROR if number % 100 == 7 else Status.IDLE,
                created_at=now - timedelta(seconds=number),
                last_activity_at=now - timedelta(minutes=number),
            )
            for number in range(ROWS)
        ],
        batch_size=2000,
    )


@pytest.fixture
def page(
    operator: Client, worker: Worker, live_server: LiveServer, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Page]:
    """Provide a signed-in page; script errors and violations of the CSP fail the test."""
    # The browser's event loop is in this thread.
    monkeypatch.setenv("DJANGO_ALLOW_ASYNC_UNSAFE", "1")
    monkeypatch.setattr(broker, "publish", lambda *_: None)
    monkeypatch.setattr(settings, "OWN_HOST", "")
    root_row.forget()
    expect.set_options(timeout=SECONDS * 1000)
    with launched() as browser:
        context = browser.new_context(
            viewport={"width": 1440, "height": 900}, base_url=live_server.url, bypass_csp=True
        )
        context.set_default_timeout(SECONDS * 1000)
        cookie: Any = {
            "name": settings.SESSION_COOKIE_NAME,
            "value": operator.cookies[settings.SESSION_COOKIE_NAME].value,
            "url": live_server.url,
        }
        context.add_cookies([cookie])
        page = context.new_page()
        complaints = complaints_of(page)
        yield page
        assert not complaints


def names(page: Page) -> list[str]:
    return page.locator("tbody th a").all_inner_texts()


def violations(page: Page) -> list[str]:
    page.evaluate(axe_script())
    found: list[str] = page.evaluate(RUN, None)
    return found


@pytest.mark.rotated
def test_rows_are_sorted_chosen_and_changed(page: Page, worker: Worker) -> None:
    enlist_many()
    page.goto("/lieutenants/?q=agent")
    page.get_by_role("link", name="Name", exact=True).click()
    expect(page.locator("th[aria-sort=ascending]")).to_have_text("Name")
    page.get_by_role("link", name="Next").click()
    expect(page.locator(".pages")).to_contain_text("101–200 of 5000")
    assert names(page)[0] == "agent-0100"

    # Keys: the second row is chosen, and the third one opens.
    page.keyboard.press("j")
    page.keyboard.press("j")
    page.keyboard.press("x")
    expect(page.locator("[data-bulk-count]")).to_have_text("1 chosen")
    # An update keeps page, order, choice and focus; a chosen row that left it stays chosen.
    Lieutenant.objects.filter(name="agent-0100").update(status=Status.ERROR)
    page.evaluate(REFRESH)
    expect(page.locator("tbody tr").first).to_contain_text("error")
    assert names(page)[0] == "agent-0100"
    expect(page.get_by_label("Choose agent-0101")).to_be_checked()
    assert page.evaluate("document.activeElement.textContent") == "agent-0101"
    Lieutenant.objects.filter(name="agent-0101").update(name="zoe")
    page.evaluate(REFRESH)
    expect(page.locator("[data-bulk-count]")).to_have_text("1 chosen, 1 not shown")
    page.get_by_label("Choose agent-0103").check()

    page.locator("#bulk-action").select_option("pause")
    page.get_by_role("button", name="Plan…").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Pause: 2 lieutenants?")
    assert violations(page) == []
    page.get_by_role("button", name="Pause: 2").click()
    page.wait_for_url(re.compile("/lists/runs/[^/]+/$"))
    worker.work()
    expect(page.locator("#items [role=status]")).to_contain_text("2 done")
    paused = Lieutenant.objects.filter(status=Status.PAUSED).order_by("name")
    assert list(paused.values_list("name", flat=True)) == ["agent-0103", "zoe"]

    page.goto("/lieutenants/?q=agent")
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "q"
    page.keyboard.press("Escape")
    page.locator("h1").click()
    page.keyboard.press("j")
    page.keyboard.press("Enter")
    page.wait_for_url("**/lieutenants/agent-0000/")


@pytest.mark.rotated
def test_filter_is_saved_and_works_at_any_width(page: Page) -> None:
    enlist_many()
    plant(ROWS)
    page.goto("/lieutenants/?q=error&sort=-activity")
    page.get_by_text("Save this filter").click()
    page.locator("#filter-name").fill("Broken")
    page.get_by_role("button", name="Save").click()
    expect(page.locator(".chip[aria-current]")).to_have_text("Broken")
    assert page.url.endswith("/lieutenants/?q=error&sort=-activity")

    for path in ("/lieutenants/?sort=status", "/fleet/vms/?sort=name", "/fleet/?sort=name"):
        for width in (1440, 390):
            page.set_viewport_size({"width": width, "height": 900})
            page.emulate_media(color_scheme="dark" if width == 390 else "light")
            page.goto(path)
            assert page.evaluate(OVERFLOW) <= 0, (path, width)
            if width == 390:
                assert violations(page) == [], path
            expect(page.get_by_role("link", name=re.compile("^Name")).first).to_be_visible()
            box = page.locator("input[name=id]").first
            box.check()
            expect(page.locator("[data-bulk-count]")).to_have_text("1 chosen")


@pytest.mark.rotated
def test_url_remembers_the_tree(page: Page) -> None:
    plant(ROWS)
    page.goto("/fleet/")
    page.locator("[data-vm=vm-0] .twist").click()
    page.locator("[data-vm=vm-20] .twist").click()
    page.locator("[data-vm=vm-20] .vm-name").click()
    expect(page.locator("#beside h2")).to_contain_text("swarm 20")
    page.get_by_role("link", name="Last heartbeat").click()
    expect(page.locator("[data-sort][aria-current]")).to_contain_text("Last heartbeat")
    shown = page.locator("[role=treeitem]").count()
    url = page.url
    assert {"open=1.21", "vm=21", "sort=-seen"} <= set(url.partition("?")[2].split("&"))

    other = page.context.new_page()
    other.goto(url)
    expect(other.locator("#beside h2")).to_contain_text("swarm 20")
    assert other.locator("[role=treeitem]").count() == shown
    expect(other.locator("[data-vm=vm-20]")).to_have_attribute("aria-expanded", "true")

    # Keys choose VMs as in other lists; a name that is typed is still a name.
    other.locator("[data-vm=vm-20]").focus()
    other.keyboard.press("j")
    other.keyboard.press("x")
    other.keyboard.press("k")
    other.keyboard.press("x")
    expect(other.locator("[data-bulk-count]")).to_have_text("2 chosen")
    other.locator("[data-vm=vm-20] .twist").click()
    expect(other.locator("[data-bulk-count]")).to_contain_text("2 chosen")
    other.locator("#bulk-action").select_option("pause")
    other.get_by_role("button", name="Plan…").click()
    expect(other.get_by_role("heading", level=1)).to_have_text("Pause: 2 VMs?")
    assert BulkRun.objects.get().items.filter(state="refused").count() == 1


def choose_by_keys(page: Page) -> None:
    """Choose rows 1 to 3 as a range, drop the second one, and go on to row 5."""
    page.keyboard.press("j")
    page.keyboard.press("x")
    page.keyboard.press("j")
    page.keyboard.press("j")
    page.keyboard.press("Shift+X")
    expect(page.locator("[data-bulk-count]")).to_have_text("3 chosen")
    page.keyboard.press("k")
    page.keyboard.press("x")
    expect(page.locator("[data-bulk-count]")).to_have_text("2 chosen")
    page.keyboard.press("j")
    page.keyboard.press("Shift+J")
    page.keyboard.press("Shift+J")
    expect(page.locator("[data-bulk-count]")).to_have_text("4 chosen")


BOXES = "[...document.querySelectorAll('input[name=id]')]"
CHECKED = f"{BOXES}.map((each) => Number(each.checked)).join('')"


@pytest.mark.rotated
def test_ranges_are_chosen_by_keys_and_by_the_mouse_in_each_list(page: Page) -> None:
    plant(8)
    for number in range(8):
        enlist(f"agent-{number}")
    for path in ("/lieutenants/?sort=name", "/fleet/vms/?sort=name", "/fleet/"):
        page.goto(path)
        if path == "/fleet/":
            page.locator("[role=treeitem]").first.focus()
        choose_by_keys(page)
        chosen = page.evaluate(CHECKED)
        assert chosen.startswith("10111"), (path, chosen)
        assert "1" not in chosen[5:]
        # From the row that was pressed last up to the second one, and off again.
        page.locator("input[name=id]:visible").nth(1).click(modifiers=["Shift"])
        assert page.evaluate(CHECKED).startswith("11111"), path
        page.locator("input[name=id]:visible").nth(4).click(modifiers=["Shift"])
        assert page.evaluate(CHECKED).startswith("10000"), path
        page.locator("[data-bulk-clear]").click()
        expect(page.locator("[data-bulk-count]")).to_have_text("Choose rows")


@pytest.mark.rotated
def test_read_only_accounts_move_by_keys_and_choose_nothing(
    page: Page, client: Client, live_server: LiveServer
) -> None:
    plant(4)
    for number in range(4):
        enlist(f"agent-{number}")
    client.force_login(User.objects.create_user("viola"))
    value = client.cookies[settings.SESSION_COOKIE_NAME].value
    name = settings.SESSION_COOKIE_NAME
    page.context.clear_cookies()
    page.context.add_cookies([{"name": name, "value": value, "url": live_server.url}])
    for path in ("/lieutenants/?sort=name", "/fleet/vms/?sort=name", "/fleet/"):
        page.goto(path)
        names = []
        for key in "jjkx":
            page.keyboard.press(key)
            names.append(page.evaluate("document.activeElement.id"))
        first, second, *rest = names
        assert first
        assert second not in ("", first)
        assert rest == [first, first], path
        page.keyboard.press("Shift+J")
        assert page.locator("input[name=id]:checked").count() == 0
        page.keyboard.press("/")
        assert page.evaluate("document.activeElement.type") == "search"
