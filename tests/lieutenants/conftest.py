"""Fixtures that tests of pages share."""

from __future__ import annotations

from typing import Any

import pytest
from django.test import Client

from reef_site import context_processors
from reef_site.accounts import signin_links
from tests.conftest import STANDIN
from tests.dispatching import drop_tasks
from tests.fleets import database, pump

__all__ = ["database", "pump"]


@pytest.fixture
def operator(client: Client, settings: Any, monkeypatch: pytest.MonkeyPatch) -> Client:
    """A signed-in operator. The host has an agent, and no worker is notified."""
    settings.PI_PATH = str(STANDIN)
    context_processors.forget()
    drop_tasks(monkeypatch, "lieutenants.settle")
    client.force_login(signin_links.make_operator())
    return client
