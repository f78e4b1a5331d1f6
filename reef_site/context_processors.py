"""Context processor for all templates: `reef.version`, `.demo`, `.emulated`, `.organs`, …"""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial
from typing import Any

from django.conf import settings
from django.db.models import Q
from django.http import HttpRequest

from lieutenants import agents
from lieutenants.isolation import modes
from lieutenants.models import Question
from reef_site.accounts import zones
from reef_site.activity.models import Channel, Subscriber
from vmtree import permissions

_CACHE_SECONDS = 10.0


@dataclass
class _Cached:
    """Result and monotonic time of the last search for an agent on this host."""

    problem: str = ""
    checked_at: float = -_CACHE_SECONDS


_cached = _Cached()


def agent_problem() -> str:
    """Return why the default agent cannot start here, empty if it can; cached for ten seconds."""
    if time.monotonic() - _cached.checked_at >= _CACHE_SECONDS:
        problem = agents.DIALECTS[agents.DEFAULT].host_problem()
        _cached.problem, _cached.checked_at = problem, time.monotonic()
    return _cached.problem


def forget() -> None:
    """Drop the cached result."""
    _cached.checked_at = -_CACHE_SECONDS


def _is_read_only(request: HttpRequest) -> bool:
    """Return whether the account is read-only; pages then hide what it cannot do."""
    user = getattr(request, "user", None)
    return bool(user and user.is_authenticated and permissions.is_read_only_account(user))


def _notifies(request: HttpRequest) -> str:
    """Return `browser` if pages show notifications to this person, `away` if only others do so
    unless a page is open, else nothing.
    """
    if not request.user.is_authenticated:
        return ""
    mine = Subscriber.objects.active().filter(owner=request.user)
    wanted = mine.filter(Q(channel=Channel.BROWSER) | Q(only_away=True)).values_list("channel")
    channels = {channel for (channel,) in wanted}
    return "browser" if Channel.BROWSER in channels else "away" if channels else ""


def _open_questions() -> int:
    """Return how many questions of agents nobody has decided yet."""
    return Question.objects.open().count()


def site(request: HttpRequest) -> dict[str, Any]:
    """Return facts about the site. The agent is searched for only if a template uses it."""
    return {
        "reef": {
            "version": settings.VERSION,
            "demo": settings.DEMO,
            "emulated": settings.EMULATED_VMS,
            "organs": settings.ORGANS,
            "agent_problem": agent_problem,
            "isolation_warning": modes.warning,
            "read_only": _is_read_only(request),
            "open_questions": _open_questions,
            "zone": zones.current_name,
            "notifies": partial(_notifies, request),
            # Ages are counted from the server's clock, since browsers' clocks may be wrong.
            "now": time.time_ns() // 1_000_000,
        }
    }
