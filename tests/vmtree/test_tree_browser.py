"""A real browser at the live tree of 5,000 VMs in a reef that runs."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import (
    Browser,
    BrowserContext,
    Locator,
    Page,
    Route,
    expect,
    sync_playwright,
)
from redis import Redis

from reef_site.common import events
from reef_site.common.ids import new_ulid
from tests.stack import Stack
from tests.waiting import until

pytestmark = pytest.mark.browser

QUIET = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
)
# Generous limit for waiting, since the machine may be shared.
SECONDS = 120
PLANT = "from tests.vmtree.planted import plant; plant(5000)"
# A heartbeat that is old enough that the VM becomes silent soon.
FADE = """
from datetime import timedelta
from registry.models import VM
from reef_site.common import clock
soon = clock.now() + timedelta(seconds=2)
VM.objects.filter(pk="{}").update(late_after=soon, silent_after=soon)
"""


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with Stack(tmp_path_factory.mktemp("fleet")) as stack:
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


@pytest.fixture(scope="module")
def signed_in(browser: Browser, stack: Stack) -> BrowserContext:
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    context.set_default_timeout(SECONDS * 1000)
    page = context.new_page()
    secret = stack.manage("signin").split()[-1].rpartition("/")[2]
    page.goto(f"http://127.0.0.1:{stack.port}/signin/{secret}")
    page.close()
    return context


@pytest.fixture
def page(signed_in: BrowserContext, stack: Stack) -> Iterator[Page]:
    """Provide a page with the live tree; script errors and violations of the CSP fail the test."""
    expect.set_options(timeout=SECONDS * 1000)
    page = signed_in.new_page()
    complaints: list[str] = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on(
        "console",
        lambda said: complaints.append(said.text) if "Content Security" in said.text else None,
    )
    page.goto(f"http://127.0.0.1:{stack.port}/fleet/")
    expect(page.locator("#live")).to_have_text("Live")
    yield page
    page.close()
    assert not complaints


def row(page: Page, vm_id: str) -> Locator:
    return page.locator(f'[data-vm="{vm_id}"]')


def expand(page: Page, *vm_ids: str) -> None:
    for vm_id in vm_ids:
        row(page, vm_id).locator(".twist").click()
        expect(row(page, vm_id)).to_have_attribute("aria-expanded", "true")


def send_heartbeat(stack: Stack, vm_id: str) -> None:
    assert stack.client.post(f"/registry/vms/{vm_id}/heartbeat").status_code == 200


def add_vm(stack: Stack, vm_id: str, parent: str) -> None:
    body = {"vmId": vm_id, "name": vm_id, "category": "agent_vm", "parentVmId": parent}
    assert stack.client.post("/vm-tree/vms", json=body).status_code == 201


@pytest.mark.rotated
def test_rows_are_fetched_when_their_parent_is_expanded(page: Page) -> None:
    expect(row(page, "vm-0")).to_be_visible()
    assert page.locator("[role=treeitem]").count() == 21
    expect(page.locator("#n0")).to_contain_text("5,000 VMs")
    expect(page.locator("#n0")).to_contain_text("silent 50")
    expand(page, "vm-0", "vm-20")
    expect(row(page, "vm-225").locator(".worst")).to_contain_text("silent")
    expect(row(page, "vm-220").locator(".worst")).to_have_count(0)
    expand(page, "vm-225")
    expect(row(page, "vm-2477").locator(".status")).to_have_text("silent")
    expect(row(page, "vm-2478").locator(".status")).to_have_text("late")
    assert row(page, "vm-2477").get_attribute("aria-level") == "5"
    row(page, "vm-20").locator(".twist").click()
    expect(row(page, "vm-2477")).to_be_hidden()
    row(page, "vm-20").locator(".twist").click()
    expect(row(page, "vm-2477")).to_be_visible()


@pytest.mark.rotated
def test_page_shows_a_vm_that_becomes_silent(stack: Stack, page: Page) -> None:
    expand(page, "vm-1", "vm-21", "vm-232")
    row(page, "vm-2553").click()
    page.locator("[data-close]").click()
    page.evaluate("window.notReloaded = true")
    expect(row(page, "vm-2553").locator(".status")).to_have_text("live")
    expect(row(page, "vm-232").locator(".worst")).to_have_count(0)
    stack.manage("shell", "-c", FADE.format("vm-2553"))

    expect(row(page, "vm-2553").locator(".status")).to_have_text("silent")
    expect(row(page, "vm-232").locator(".worst")).to_contain_text("silent")
    expect(row(page, "vm-2553")).to_be_focused()
    send_heartbeat(stack, "vm-2553")
    expect(row(page, "vm-2553").locator(".status")).to_have_text("live")
    expect(row(page, "vm-232").locator(".worst")).to_have_count(0)
    assert page.evaluate("window.notReloaded")


def test_expanded_rows_are_added_removed_and_moved(stack: Stack, page: Page) -> None:
    expand(page, "vm-2", "vm-22", "vm-42")
    add_vm(stack, "newcomer", "vm-22")
    expect(row(page, "newcomer")).to_have_attribute("aria-level", "4")
    expect(row(page, "newcomer")).to_have_attribute("aria-setsize", "12")
    add_vm(stack, "child", "newcomer")
    expect(row(page, "newcomer")).to_have_attribute("aria-expanded", "false")
    expand(page, "newcomer")
    expect(row(page, "child")).to_be_visible()
    row(page, "vm-242").focus()
    moved = stack.client.patch("/vm-tree/vms/newcomer", json={"parentVmId": "vm-42"})
    assert moved.status_code == 200
    expect(row(page, "newcomer")).to_have_count(1)
    expect(row(page, "newcomer")).to_have_attribute("data-parent", "43")
    assert stack.client.delete("/vm-tree/vms/child").status_code == 200
    assert stack.client.delete("/vm-tree/vms/newcomer").status_code == 200
    expect(row(page, "newcomer")).to_have_count(0)
    expect(row(page, "vm-242")).to_be_focused()


@pytest.mark.rotated
def test_search_updates_the_tree(stack: Stack, page: Page) -> None:
    box = page.locator("#tree-q")
    box.fill("silent under:vm-0")
    box.press("Enter")
    expect(page.locator(".is-match").first).to_be_visible()
    assert set(page.locator(".is-match > .status").all_inner_texts()) == {"silent"}
    expect(page.locator('[data-vm="vm-225"]')).to_be_visible()
    assert "q=silent" in page.url
    stack.manage("shell", "-c", FADE.format("vm-2420"))
    expect(page.locator('.is-match[data-vm="vm-2420"]')).to_be_visible()
    send_heartbeat(stack, "vm-2420")
    expect(page.locator('[data-vm="vm-2420"]')).to_have_count(0)

    box.fill("organs:store")
    box.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("Unknown filter")
    expect(page.get_by_role("alert")).to_contain_text("organ:")
    page.go_back()
    expect(page.locator(".is-match").first).to_be_visible()
    page.go_back()
    expect(page.locator("[role=treeitem]")).to_have_count(21)


def test_tree_is_usable_by_keyboard(page: Page) -> None:
    def focused() -> str:
        return str(page.evaluate("document.activeElement.dataset.vm ?? document.activeElement.id"))

    def press(key: str, wanted: str) -> None:
        page.keyboard.press(key)
        until(lambda: focused() == wanted, SECONDS)

    page.locator("#tree-q").focus()
    # Other views, saved filters, orders, and the form for chosen VMs come before the tree.
    stops: list[str] = []
    while not stops or stops[-1] != "DIV":
        page.keyboard.press("Tab")
        stops.append(page.evaluate("document.activeElement.tagName"))
        assert len(stops) < 20
    stops.remove("SUMMARY")
    assert stops == ["BUTTON", *["A"] * (len(stops) - 4), "SELECT", "BUTTON", "DIV"]
    assert focused() == "n0"
    press("ArrowDown", "vm-0")
    press("End", "vm-19")
    press("Home", "n0")
    press("ArrowDown", "vm-0")
    page.keyboard.press("ArrowRight")
    expect(row(page, "vm-20")).to_be_visible()
    press("ArrowRight", "vm-20")
    page.keyboard.press("Enter")
    expect(page.locator("#beside")).to_contain_text("swarm 20")
    expect(row(page, "vm-20")).to_have_attribute("aria-selected", "true")
    page.keyboard.press("Escape")
    expect(page.locator("#beside")).to_be_hidden()
    press("ArrowLeft", "vm-0")
    press("ArrowLeft", "vm-0")
    expect(row(page, "vm-20")).to_be_hidden()
    press("ArrowLeft", "n0")


def test_side_panel_shows_a_vm(stack: Stack, page: Page) -> None:
    body = {"reefConfig": {"organs": ["store", "mail"], "capabilities": []}}
    assert stack.client.patch("/vm-tree/vms/vm-3", json=body).status_code == 200
    row(page, "vm-3").locator(".vm-name").click()
    beside = page.locator("#beside")
    expect(beside.get_by_role("img")).to_be_visible()
    beside.get_by_label("Compare with").fill("vm-4")
    beside.get_by_role("button", name="Compare").click()
    expect(beside.locator(".is-added")).to_have_text("+mail")
    expect(beside.locator(".is-removed").first).to_have_text("−cron")
    beside.get_by_role("link", name="Map").click()
    expect(page.locator("svg.picture a").first).to_be_visible()


@pytest.mark.rotated
def test_page_without_a_connection_says_so(stack: Stack, page: Page) -> None:
    expand(page, "vm-0")
    row(page, "vm-20").focus()
    stack.end("edge")
    live = page.locator("#live")
    expect(live).to_have_text("Reconnecting…")
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("alert")).to_contain_text("reef does not answer")
    expect(live).to_contain_text("Stale since")

    stack.start("edge")
    expect(live).to_have_text("Live")
    expect(page.get_by_role("alert")).to_be_hidden()
    expect(row(page, "vm-20")).to_be_focused()
    page.keyboard.press("ArrowRight")
    expect(row(page, "vm-220")).to_be_visible()


@pytest.mark.rotated
def test_page_with_a_hanging_server_says_so(stack: Stack, page: Page) -> None:
    live = page.locator("#live")
    # The connections stay open without any data.
    os.killpg(stack.processes["edge"].pid, signal.SIGSTOP)
    try:
        expect(live).to_have_text("Delayed")
        expect(live).to_contain_text("Stale since")
    finally:
        os.killpg(stack.processes["edge"].pid, signal.SIGCONT)
    expect(live).to_have_text("Live")


# Times of the page's own requests for updates, in milliseconds.
ASKED = """performance.getEntriesByType("resource")
    .filter((each) => each.name.includes("/_news")).map((each) => each.startTime)"""


def test_burst_of_changes_causes_few_refreshes(stack: Stack, page: Page) -> None:
    page.evaluate("performance.setResourceTimingBufferSize(5000)")
    password = (stack.data / "redis-password").read_text()
    redis = Redis(unix_socket_path=str(stack.run / "redis.sock"), password=password)
    began = time.monotonic()
    with redis.pipeline(transaction=False) as pipe:
        for second in range(3):
            for number in range(5000):
                news = {"topic": "nodes", "ids": [f"vm-{number}"]}
                pipe.publish(events.CHANNEL, json.dumps(news))
                if number % 50 == 49:
                    pipe.execute()
                    page.wait_for_timeout(max(0, due(began, second, number) * 1000))
    redis.close()
    send_heartbeat(stack, "vm-2477")
    expect(page.locator("#n0")).to_contain_text("silent 49")
    asked = page.evaluate(ASKED)
    assert len(asked) > 2
    assert len(asked) <= 4 * (asked[-1] - asked[0]) / 1000 + 2


def due(began: float, second: int, number: int) -> float:
    """Return the seconds until this change of 5,000 a second is due."""
    return began + second + number / 5000 - time.monotonic()


def test_child_beyond_the_page_is_announced_while_its_parent_is_not_visible(
    stack: Stack, page: Page
) -> None:
    full = new_ulid()  # a second try finds the VMs of the first
    add_vm(stack, full, "vm-4")
    for number in range(50):
        add_vm(stack, f"{full}-{number}", full)
    expand(page, "vm-4")
    row(page, full).scroll_into_view_if_needed()
    expand(page, full)
    row(page, f"{full}-49").scroll_into_view_if_needed()
    expect(row(page, full)).not_to_be_in_viewport()
    key = row(page, full).get_attribute("data-key")
    expect(page.locator(f"#more{key}")).to_have_count(0)
    add_vm(stack, f"{full}-50", full)
    expect(page.locator(f"#more{key}")).to_contain_text("(1 not shown)")
    page.locator(f"#more{key} a").click()
    expect(row(page, f"{full}-50")).to_be_visible()
    add_vm(stack, f"{full}-51", full)
    expect(row(page, f"{full}-51")).to_have_count(0)
    expect(page.locator(f"#more{key}")).to_contain_text("(1 not shown)")


def test_child_added_while_the_rows_beside_its_parent_are_fetched_appears(
    stack: Stack, page: Page
) -> None:
    outer = new_ulid()
    add_vm(stack, outer, "vm-5")
    add_vm(stack, f"{outer}-1", outer)
    expand(page, "vm-5", outer)
    expect(row(page, f"{outer}-1")).to_be_visible()
    added: list[str] = []

    def add_another(route: Route) -> None:
        if not added:
            added.append(f"{outer}-2")
            add_vm(stack, added[0], outer)
        route.continue_()

    key = row(page, "vm-5").get_attribute("data-key")
    page.route(re.compile(rf"/_children/{key}\b"), add_another)
    add_vm(stack, f"{outer}-beside", "vm-5")
    expect(row(page, f"{outer}-beside")).to_be_visible()
    assert added
    expect(row(page, added[0])).to_be_visible()


def test_lists_of_the_admin_need_no_horizontal_scrolling(stack: Stack, page: Page) -> None:
    stack.client.post("/vm-tree/snapshot")
    page.set_viewport_size({"width": 390, "height": 844})
    host = page.url.split("/fleet/")[0]
    for path in ("vmtree/node/", "registry/vm/", "vmtree/snapshot/", "operations/job/"):
        page.goto(f"{host}/admin/{path}")
        assert page.evaluate("document.documentElement.scrollWidth") == 390, path
        inside = page.locator("#changelist .results")
        if inside.count():
            assert inside.evaluate("each => each.scrollWidth <= each.clientWidth"), path
    page.goto(f"{host}/admin/vmtree/node/")
    first = page.locator("#result_list tbody tr").first
    expect(first).to_contain_text("lieutenant 0")
    expect(first.locator(".field-category")).to_have_attribute("data-label", "Category")
    page.get_by_role("link", name="Filters").click()
    expect(page.locator("#changelist-filter")).to_be_in_viewport()
    page.goto(f"{host}/admin/vmtree/snapshot/")
    page.get_by_role("button", name="Snapshot now").click()
    expect(page.locator(".messagelist")).to_contain_text("saved")


def test_unplaced_vm_appears_and_is_added_to_the_tree(stack: Stack, page: Page) -> None:
    group = page.locator("#nregistered")
    expect(group).to_have_count(0)
    register(stack, "stray-1")
    expect(group).to_contain_text("not in the tree")
    row(page, "vm-19").focus()
    for key in ("ArrowDown", "ArrowRight"):
        page.keyboard.press(key)
    expect(row(page, "stray-1")).to_be_visible()
    register(stack, "stray-2")
    expect(row(page, "stray-2")).to_be_visible()
    expect(group).to_be_focused()

    row(page, "stray-1").focus()
    page.keyboard.press("Enter")
    beside = page.locator("#beside")
    beside.get_by_label("Parent VM (id)").fill("vm-0")
    beside.get_by_role("button", name="Add to the tree").click()
    expect(page.get_by_role("status")).to_contain_text("was added to the tree under")
    assert stack.client.get("/vm-tree/vms/stray-1").json()["parentVmId"] == "vm-0"
    page.go_back()
    expect(group.locator(".vm-count")).to_contain_text("1")
    for vm_id in ("stray-1", "stray-2"):
        assert stack.client.delete(f"/registry/vms/{vm_id}").status_code == 200
    expect(group).to_have_count(0)


def register(stack: Stack, vm_id: str) -> None:
    body = {"id": vm_id, "name": vm_id, "role": "worker", "address": "x", "registeredBy": "tests"}
    assert stack.client.post("/registry/vms", json=body).status_code == 201


@pytest.mark.rotated
@pytest.mark.parametrize("scheme", [pytest.param("light", marks=pytest.mark.thorough), "dark"])
def test_small_screens_need_no_horizontal_scrolling(page: Page, scheme: str) -> None:
    page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
    page.set_viewport_size({"width": 390, "height": 844})
    expand(page, "vm-0", "vm-20", "vm-225")
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    row(page, "vm-2477").locator(".vm-name").click()
    expect(page.locator("#beside")).to_contain_text("Lineage")
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    for path in ("?q=silent", "picture/", "1/"):
        page.goto(page.url.split("/fleet/")[0] + "/fleet/" + path)
        expect(page.locator("main")).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth") == 390, path
