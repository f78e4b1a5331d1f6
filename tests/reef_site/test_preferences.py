"""Preferences of a person, and the time zone of pages."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from django.contrib.auth import get_user_model
from django.test import Client
from django.utils import timezone

from reef_site.accounts.models import Preferences
from reef_site.common.eventlog.models import Event
from tests.lieutenants.conftest import operator
from tests.lieutenants.rows import page

__all__ = ["operator"]
pytestmark = pytest.mark.django_db
AT = datetime(2026, 7, 1, 22, 30, tzinfo=UTC)


@pytest.fixture
def event() -> Event:
    return Event.objects.create(at=AT, kind="vm.late", topic="vm", subject="vm-7", actor="tests")


def test_times_are_in_the_zone_of_the_browser(operator: Client, event: Event) -> None:
    assert "2026-07-01 22:30:00" in page(operator, "/event-log/")
    operator.cookies["reef-zone"] = "Europe%2FBerlin"
    html = page(operator, "/event-log/")
    assert "2026-07-02 00:30:00" in html
    assert 'data-zone="Europe/Berlin"' in html
    # Forms read times in the same zone.
    assert "2026-07-02" in page(operator, "/event-log/?since=2026-07-02T00:15")
    assert "No events match" in page(operator, "/event-log/?since=2026-07-02T00:45")
    # It is that of one request.
    assert timezone.get_current_timezone_name() == "UTC"
    operator.cookies["reef-zone"] = "Nowhere/At-All"
    assert "2026-07-01 22:30:00" in page(operator, "/event-log/")


def test_chosen_zone_wins_over_the_browser(operator: Client, event: Event) -> None:
    operator.cookies["reef-zone"] = "Europe%2FBerlin"
    assert "That of the browser (Europe/Berlin)" in page(operator, "/preferences/")
    assert operator.post("/preferences/", {"time_zone": "Asia/Tokyo"}).status_code == 302
    assert "2026-07-02 07:30:00" in page(operator, "/event-log/")
    assert '<option value="Asia/Tokyo" selected>' in page(operator, "/preferences/")
    assert operator.post("/preferences/", {"time_zone": "Mars/Base"}).status_code == 400
    operator.post("/preferences/", {"time_zone": ""})
    assert "2026-07-02 00:30:00" in page(operator, "/event-log/")


def test_everybody_has_preferences_of_their_own(event: Event) -> None:
    assert Client().get("/preferences/").status_code == 302
    reader = Client()
    reader.force_login(get_user_model().objects.create_user("reader"))
    assert reader.post("/preferences/", {"time_zone": "Asia/Tokyo"}).status_code == 302
    assert Preferences.objects.get().user.username == "reader"
