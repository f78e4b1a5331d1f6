"""A real browser at the pages of provisioning, while a VM comes up on an emulated platform."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.bootloader.provisioning_stack import BARE, BootStack
from tests.emulator.fixture import emulator, emulator_of_the_run
from tests.emulator.handle import Emulator

__all__ = ["emulator", "emulator_of_the_run"]

pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]

QUIET = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
)
SECONDS = 120_000  # limit for waiting, in milliseconds


@pytest.fixture(scope="module")
def stack(
    emulator_of_the_run: Emulator, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[BootStack]:
    folder = tmp_path_factory.mktemp("boot")
    with BootStack(folder, emulator_of_the_run) as running:
        running.manage("shell", "-c", BARE)
        yield running


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    program = os.environ.get("REEF_TEST_CHROMIUM", "")
    if not program:
        pytest.fail("no browser: run the tests with `python3 manage.py test`")
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=program, args=list(QUIET))
        yield opened
        opened.close()


@pytest.fixture
def page(stack: BootStack, browser: Browser) -> Iterator[Page]:
    """Provide a page of a signed-in operator; script errors and violations of the CSP fail the
    test.
    """
    secret = stack.manage("signin").strip().rsplit("/", 1)[-1]
    context = browser.new_context(base_url=f"http://{stack.host}:{stack.port}")
    opened = context.new_page()
    problems: list[str] = []
    opened.on("pageerror", lambda error: problems.append(str(error)))
    opened.on("console", lambda said: problems.extend(re.findall(".*violates.*", said.text)))
    opened.goto(f"/signin/{secret}")
    yield opened
    context.close()
    assert not problems


def check_widths(page: Page) -> None:
    """Check that nothing is wider than the window, on a desktop and on a phone."""
    for width in (390, 1440):
        page.set_viewport_size({"width": width, "height": 900})
        out = page.evaluate("document.documentElement.scrollWidth - innerWidth")
        assert out <= 0, f"{page.url} is {out} pixels too wide at {width}"


def fill(page: Page, name: str, **fields: str) -> None:
    page.goto("/provisioning/new/")
    check_widths(page)
    page.fill("#id_name", name)
    page.select_option("#id_type", "bare")
    for field, text in fields.items():
        page.fill(f"#id_{field}", text)


@pytest.mark.rotated
def test_provisioning_can_be_followed_from_form_to_end(
    page: Page, stack: BootStack, emulator: Emulator
) -> None:
    emulator.set(boot_delay_s=1)
    fill(page, "seen")
    page.click("text=Preview")
    expect(page.get_by_role("heading", name="Boot script")).to_be_visible()
    check_widths(page)
    page.click("text=Change")
    assert page.input_value("#id_name") == "seen"
    page.click("text=Preview")
    page.get_by_role("button", name="Start", exact=True).click()

    page.wait_for_url(re.compile(r"/provisioning/01\w+/$"))
    key = page.url.rstrip("/").rsplit("/", 1)[-1]
    # The page updates without a reload, and each line of the log appears once and in order.
    expect(page.locator("#log")).to_contain_text("running → done", timeout=SECONDS)
    expect(page.locator("#part .status").first).to_have_text("done")
    said = stack.client.get(f"/bootloader/provisionings/{key}/log?limit=1000").json()["lines"]
    shown = [text.strip() for text in page.locator("#log .what").all_inner_texts()]
    assert shown == [line["text"].strip() for line in said]
    expect(page.locator(".reports li")).to_have_count(8)
    check_widths(page)

    page.get_by_role("link", name="Script", exact=True).click()
    expect(page.get_by_role("heading", name="cloud-init")).to_be_visible()
    check_widths(page)


@pytest.mark.rotated
def test_failed_provisioning_is_retried_or_cancelled(
    page: Page, stack: BootStack, emulator: Emulator
) -> None:
    emulator.set(fail_boots=1, boot_delay_s=0.5)
    fill(page, "unlucky")
    page.click("text=Start now")
    expect(page.locator("#part .status").first).to_have_text("failed", timeout=SECONDS)
    check_widths(page)
    page.goto("/provisioning/")
    row = page.locator("tr", has_text="unlucky")
    expect(row.locator(".status")).to_have_text("failed")
    check_widths(page)
    row.get_by_role("link").click()
    page.click("text=Retry from here")
    expect(page.locator("#part .status").first).to_have_text("done", timeout=SECONDS)


@pytest.mark.thorough
def test_cancelling_asks_for_the_cleanup_policy(
    page: Page, stack: BootStack, emulator: Emulator
) -> None:
    emulator.set(boot_delay_s=8)
    fill(page, "unwanted")
    page.click("text=Start now")
    expect(page.locator("#log")).to_contain_text("is made", timeout=SECONDS)
    page.get_by_role("link", name="Cancel…").click()
    check_widths(page)
    page.click("text=Cancel, delete the VM")
    expect(page.locator("#part .status").first).to_have_text("cancelled", timeout=SECONDS)
    assert emulator.vms() == []
    emulator.clear_faults()


@pytest.mark.rotated
def test_operator_resolves_a_finding(page: Page, stack: BootStack, emulator: Emulator) -> None:
    words = "from bootloader.models import Finding; Finding.objects.create(kind='unknown',"
    facts = "provider='vers', machine_id='m-1', name='old', text='nobody made it', proposal='adopt'"
    stack.manage("shell", "-c", f"{words}{facts})")
    page.goto("/provisioning/findings/")
    check_widths(page)
    page.click("text=Dismiss")
    expect(page.locator("table")).to_contain_text("left as it is")
    page.goto("/provisioning/machines/")
    check_widths(page)
