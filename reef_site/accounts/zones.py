"""The time zone of pages: the one a person has chosen, else that of the browser.

Django formats and reads all times of templates and forms in the zone that is active. The API has
none: its times are UTC.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote
from zoneinfo import ZoneInfo, available_timezones

from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.utils import timezone

from reef_site.accounts.models import Preferences

# `times.js` sets it.
COOKIE = "reef-zone"


@functools.cache
def names() -> tuple[str, ...]:
    """Return the names of all time zones."""
    return tuple(sorted(name for name in available_timezones() if name[0].isupper()))


def find(name: str) -> ZoneInfo | None:
    """Return the zone of this name, if there is one."""
    return ZoneInfo(name) if name in names() else None


def current_name() -> str:
    """Return the name of the active zone."""
    return str(timezone.get_current_timezone()) if _is_local() else "UTC"


def _is_local() -> bool:
    # The name of a ZoneInfo, not an abbreviation such as CET.
    return isinstance(timezone.get_current_timezone(), ZoneInfo)


def zone_of(user: Any) -> ZoneInfo | None:
    """Return the zone that a person has chosen, if any."""
    chosen = Preferences.objects.filter(user=user.pk).values_list("time_zone", flat=True).first()
    return find(chosen or "")


def browser_zone(request: HttpRequest) -> ZoneInfo | None:
    """Return the zone of the browser, if it is known."""
    return find(unquote(request.COOKIES.get(COOKIE, ""))[:64])


class TimeZoneMiddleware:
    """Activate the person's time zone for pages."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        try:
            return self.get_response(request)
        finally:
            timezone.deactivate()

    def process_view(self, request: HttpRequest, view: Any, _args: object, _named: object) -> None:
        """Called by Django before each view."""
        if hasattr(view, "cls"):
            return
        chosen = zone_of(request.user) if request.user.is_authenticated else None
        if zone := chosen or browser_zone(request):
            timezone.activate(zone)
