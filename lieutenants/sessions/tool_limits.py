"""Durations of tool calls, by a monotonic clock."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from django.utils import timezone

from lieutenants.models import Entry
from reef_site.common.text import clip, one_line

_MAX_TEXT = 120


class ToolClock:
    """Start times of one follower's running calls, on its own clock."""

    def __init__(self) -> None:
        self._since: dict[int, float] = {}
        self._checked_at = 0.0

    def seconds(self, call: Entry, clock: float) -> float:
        """Return how long this call has been running."""
        if call.pk not in self._since:
            so_far = (timezone.now() - call.at).total_seconds()
            self._since[call.pk] = clock - max(0.0, so_far)
        return clock - self._since[call.pk]

    def pause(self, running: Iterable[int], clock: float) -> None:
        """Do not count the time since the last check: these calls waited for a person."""
        skipped = clock - self._checked_at
        self._checked_at = clock
        self._since = {pk: min(clock, self._since.get(pk, clock) + skipped) for pk in running}

    def keep_only(self, running: Iterable[int], clock: float) -> None:
        """Drop all other calls."""
        self._checked_at = clock
        kept = set(running)
        self._since = {pk: since for pk, since in self._since.items() if pk in kept}


def first_text(arguments: Any) -> str:
    """Return the first text argument of a call, in one short line."""
    if not isinstance(arguments, Mapping):
        return ""
    texts = [each for each in arguments.values() if isinstance(each, str)]
    return clip(one_line(texts[0]), _MAX_TEXT) if texts else ""


def describe_calls(calls: Iterable[Entry]) -> str:
    """List the running calls, oldest first, each with its first text argument."""
    parts = []
    for call in sorted(calls, key=lambda each: each.at):
        subject = str(call.data.get("about") or "") if call.data else ""
        parts.append(f"{call.tool} ({subject})" if subject else call.tool)
    return clip(", ".join(dict.fromkeys(parts)), 190)


def oldest_start(calls: Iterable[Entry]) -> datetime | None:
    """Return the start time of the oldest call."""
    return min((call.at for call in calls), default=None)
