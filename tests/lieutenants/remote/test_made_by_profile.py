"""A lieutenant on a VM that is provisioned for it, beside a complete reef."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.bootloader.provisioning_stack import BARE, BootStack
from tests.browsers import complaints_of, launched, signed_in, url_of
from tests.emulator.handle import Emulator
from tests.waiting import until

PATH = "/lieutenant/lieutenants/far"
SECONDS = 90_000  # limit for waiting in the browser, in milliseconds
# Speaks for about twelve seconds.
SPEAKS = "sh -c 'for n in $(seq 1 120); do echo line $n; sleep 0.1; done; echo the end'"
SAID = "".join(f"line {number}\n" for number in range(1, 121)) + "the end\n"


@pytest.fixture(scope="module")
def stack(
    emulator_of_the_run: Emulator, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[BootStack]:
    folder = tmp_path_factory.mktemp("profile")
    with BootStack(folder, emulator_of_the_run, REEF_LIEUTENANT_PROFILE="bare") as running:
        running.manage("shell", "-c", BARE)
        yield running


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with launched() as running:
        expect.set_options(timeout=SECONDS)
        yield running


def in_status(stack: BootStack, status: str, seconds: float = 120) -> dict[str, Any]:
    def found() -> dict[str, Any] | None:
        row: dict[str, Any] = stack.client.get(PATH).json()
        assert status == "error" or row["status"] != "error", row["error"]
        return row if row["status"] == status else None

    row: dict[str, Any] = until(found, seconds)
    return row


@pytest.mark.rotated
@pytest.mark.timeout(300)
def test_vm_is_made_by_the_usual_profile_and_ends_with_its_lieutenant(
    stack: BootStack, emulator: Emulator
) -> None:
    body = {"name": "far", "role": "r", "local": False, "agent": "command"}
    command = ["sh", "-c", "cat /etc/vm_id; cat"]
    made = stack.client.post("/lieutenant/lieutenants", json={**body, "command": command})
    assert made.status_code == 201, made.text
    assert made.json()["status"] == "starting"
    row = in_status(stack, "idle")
    (vm,) = emulator.vms()
    assert row["vmId"] == vm["vm_id"]
    steps = [each["name"] for each in row["startSteps"]]
    provisioned = ("resolve", "create", "ssh", "identity", "upload", "run", "join", "health")
    assert steps == [
        *(f"provision-{name}" for name in provisioned),
        *("vm", "ssh", "identity", "keeper", "agent", "ready"),
    ]
    assert stack.post(f"{PATH}/send", {"message": "hello"}).status_code == 200
    until(lambda: stack.client.get(PATH).json()["outputHistory"], 30)
    assert stack.client.get(PATH).json()["outputHistory"] == [f"{vm['vm_id']}\nhello"]
    registered = stack.client.get(f"/registry/vms/{row['id']}").json()
    assert registered["parentVmId"] == vm["vm_id"]

    assert stack.client.delete(PATH).status_code == 200
    until(lambda: not emulator.vms(), 60)
    paths = [
        f"{place}/vms/{vm_id}"
        for place in ("/vm-tree", "/registry")
        for vm_id in (row["id"], vm["vm_id"])
    ]
    until(lambda: {stack.client.get(path).status_code for path in paths} == {404})


def check_widths(page: Page, name: str) -> None:
    """Check that nothing is wider than the window, on a desktop and on a phone."""
    for width in (1440, 390):
        page.set_viewport_size({"width": width, "height": 900})
        out = page.evaluate("document.documentElement.scrollWidth - innerWidth")
        assert out <= 0, f"{name} is {out} pixels too wide at {width}"
        if folder := os.environ.get("REEF_TEST_PICTURES"):
            for scheme in ("light", "dark"):
                page.emulate_media(color_scheme=scheme)
                page.screenshot(path=f"{folder}/{name}-{width}-{scheme}.png", full_page=True)
    page.set_viewport_size({"width": 1440, "height": 900})


@pytest.mark.rotated
@pytest.mark.browser
@pytest.mark.timeout(400)
def test_operator_follows_a_lieutenant_on_a_vm_through_a_cut(
    stack: BootStack, browser: Browser, emulator: Emulator
) -> None:
    context = signed_in(browser, stack)
    page = context.new_page()
    complaints = complaints_of(page)
    root = url_of(stack)
    page.goto(f"{root}/lieutenants/_new")
    check_widths(page, "form")
    page.fill("#id_name", "far")
    page.fill("#id_role", "works on a VM")
    page.select_option("#id_machine", "profile:bare")
    page.select_option("#id_agent", "command")
    page.fill("#id_command", SPEAKS)
    page.get_by_role("button", name="Create").click()
    page.evaluate("window.notReloaded = true")
    # Provisioning and start are shown as they go on, each step with its time.
    expect(page.locator("#start-steps")).to_contain_text("provision-create")
    check_widths(page, "steps")
    expect(page.locator("#head .state > .status").first).to_have_text("idle")
    for step in ("provision-health", "ssh", "identity", "keeper", "agent", "ready"):
        expect(page.locator("#start-steps")).to_contain_text(step)
    assert page.evaluate("window.notReloaded")

    page.get_by_label("Message to").fill("go")
    page.get_by_label("Message to").press("Control+Enter")
    expect(page.locator("#blocks")).to_contain_text("line 10\n")
    emulator.set(ssh_cut=True)
    emulator.cut_connections()
    expect(page.locator("#head .note")).to_contain_text("machine cannot be reached since")
    expect(page.locator("#facts")).to_contain_text("out of reach")
    check_widths(page, "cut")
    # The agent ends meanwhile; here the answer stays open.
    expect(page.locator("#head .state > .status").first).to_have_text("working")
    emulator.clear_faults()
    expect(page.locator("#head .note")).to_have_count(0)
    expect(page.locator("#head .state > .status").first).to_have_text("idle")
    expect(page.locator("#blocks .close").last).to_contain_text("completed")
    expect(page.locator("#blocks")).to_contain_text("the end")
    check_widths(page, "whole")
    assert page.evaluate("window.notReloaded")
    shown = page.locator("#blocks").inner_text()
    assert shown.count("line 120") == shown.count("the end") == 1
    assert stack.client.get(PATH).json()["outputHistory"] == [SAID]
    assert not complaints
    context.close()

    assert stack.client.delete(PATH).status_code == 200
    until(lambda: not emulator.vms(), 60)
