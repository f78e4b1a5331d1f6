"""A real browser for tests of pages, signed in to a running reef."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

from tests.stack import Stack
from tests.waiting import PATIENCE

QUIET = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
)
# Generous limit for waiting, since the machine may be shared.
SECONDS = 40 * PATIENCE


@contextlib.contextmanager
def launched() -> Iterator[Browser]:
    """Start a separate browser."""
    program = os.environ.get("REEF_TEST_CHROMIUM", "/usr/bin/chromium")
    if not Path(program).exists():
        pytest.fail("no browser: run the tests with `python3 manage.py test`")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=list(QUIET))
        yield browser
        browser.close()


def url_of(stack: Stack) -> str:
    """Return the address of a running reef."""
    return str(stack.client.base_url).rstrip("/")


def signed_in(browser: Browser, stack: Stack, **options: Any) -> BrowserContext:
    """Return a new context in which the operator is signed in."""
    context = browser.new_context(viewport={"width": 1280, "height": 800}, **options)
    context.set_default_timeout(SECONDS * 1000)
    page = context.new_page()
    secret = stack.manage("signin").split()[-1].rpartition("/")[2]
    page.goto(f"{url_of(stack)}/signin/{secret}")
    page.close()
    return context


def viewer_in(browser: Browser, stack: Stack) -> BrowserContext:
    """Return a new context in which a read-only account is signed in."""
    make = (
        "from django.contrib.auth.models import User;"
        " User.objects.create_user('viola', password='viola-looks-on')"
    )
    stack.manage("shell", "-c", make)
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    context.set_default_timeout(SECONDS * 1000)
    page = context.new_page()
    page.goto(f"{url_of(stack)}/signin/")
    page.locator("[name=username]").fill("viola")
    page.locator("[name=password]").fill("viola-looks-on")
    page.locator("[name=password]").press("Enter")
    page.wait_for_url(f"{url_of(stack)}/")
    page.close()
    return context


def complaints_of(page: Page) -> list[str]:
    """Return a list that collects script errors and violations of the site's policy."""
    found: list[str] = []
    page.on("pageerror", lambda error: found.append(str(error)))
    page.on(
        "console",
        lambda entry: found.append(entry.text) if "Content Security" in entry.text else None,
    )
    return found
