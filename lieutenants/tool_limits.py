"""How long tool calls run: which one is past its limit, by a clock that nobody can set."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from django.utils import timezone

from lieutenants.models import Entry
from reef_site.common.text import clip, one_line

_MAX_ABOUT = 120


class ToolClock:
    """When each running call of one follower was first seen, as seconds of its own clock."""

    def __init__(self) -> None:
        self._since: dict[int, float] = {}

    def seconds(self, call: Entry, clock: float) -> float:
        """Return for how long this call has run."""
        if call.pk not in self._since:
            so_far = (timezone.now() - call.at).total_seconds()
            self._since[call.pk] = clock - max(0.0, so_far)
        return clock - self._since[call.pk]

    def keep_only(self, running: Iterable[int]) -> None:
        """Forget all other calls."""
        kept = set(running)
        self._since = {pk: since for pk, since in self._since.items() if pk in kept}


def about(arguments: Any) -> str:
    """Return what a call is about in one short line: its most telling argument."""
    if not isinstance(arguments, Mapping):
        return ""
    texts = [each for each in arguments.values() if isinstance(each, str)]
    return clip(one_line(texts[0]), _MAX_ABOUT) if texts else ""


def named(calls: Iterable[Entry]) -> str:
    """Name the running calls, the oldest first, each with what it is about."""
    parts = []
    for call in sorted(calls, key=lambda each: each.at):
        subject = str(call.data.get("about") or "") if call.data else ""
        parts.append(f"{call.tool} ({subject})" if subject else call.tool)
    return clip(", ".join(dict.fromkeys(parts)), 190)


def since(calls: Iterable[Entry]) -> datetime | None:
    """Return when the oldest of them began."""
    return min((call.at for call in calls), default=None)
