"""axe-core finds no violation on any page, in the light and in the dark scheme."""

from __future__ import annotations

import os
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.test import Client
from playwright.sync_api import Page
from pytest_django.live_server_helper import LiveServer

from reef_site.common import broker
from tests.browsers import SECONDS, launched
from tests.pages import page_addresses
from tests.populations import Population

pytestmark = [pytest.mark.browser, pytest.mark.rotated, pytest.mark.timeout(900)]
ROWS = 3
# Contrast alone depends on the scheme.
RUN = """(rules) => axe.run(document, {
    resultTypes: ["violations"], ...(rules && {runOnly: {type: "rule", values: rules}}),
}).then(({ violations }) => violations.flatMap(
    ({ id, nodes }) => nodes.map((node) => `${id}: ${node.html.slice(0, 200)}`)))"""


def axe_script() -> str:
    path = Path(os.environ.get("REEF_TEST_AXE", ""))
    if not path.is_file():
        pytest.fail("no axe-core: run the tests with `python3 manage.py test`")
    return path.read_text()


def is_page(client: Client, address: str) -> bool:
    answer = client.get(address)
    is_whole = not answer.streaming and b"<main" in answer.content
    return is_whole and answer.status_code == HTTPStatus.OK


def violations(page: Page, url: str, script: str) -> list[str]:
    page.emulate_media(color_scheme="light")
    page.goto(url)
    page.evaluate(script)
    found: list[Any] = page.evaluate(RUN, None)
    page.emulate_media(color_scheme="dark")
    return found + [f"dark {each}" for each in page.evaluate(RUN, ["color-contrast"])]


def test_no_page_has_violations(
    admin_client: Client, live_server: LiveServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Nobody waits for a Redis that is not there.
    monkeypatch.setattr(broker, "publish", lambda *_: None)
    monkeypatch.setattr(settings, "OWN_HOST", "")
    Population().grow(lambda _: ROWS)
    addresses = {name: at for name, at in page_addresses().items() if is_page(admin_client, at)}
    assert len(addresses) > 40
    session = admin_client.cookies[settings.SESSION_COOKIE_NAME].value
    script, found = axe_script(), {}
    with launched() as browser:
        # The policy of pages allows no foreign script.
        context = browser.new_context(bypass_csp=True)
        context.set_default_timeout(SECONDS * 1000)
        cookie: Any = {
            "name": settings.SESSION_COOKIE_NAME,
            "value": session,
            "url": live_server.url,
        }
        context.add_cookies([cookie])
        page = context.new_page()
        for name, address in addresses.items():
            if problems := violations(page, live_server.url + address, script):
                found[name] = problems
    assert found == {}
