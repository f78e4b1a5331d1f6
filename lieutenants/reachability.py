"""Detect keepers that do not respond, and since when."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from django.utils import timezone

from lieutenants.models import Process
from lieutenants.session import Session
from lieutenants.transports import get_transport

# A keeper whose socket was removed binds it again within this time.
PATIENCE_SECONDS = 3.0
_TROUBLE = "Its supervisor does not answer since "


@dataclass
class _Silence:
    """`began` is a time of the follower's clock, `since` the same in wall-clock time."""

    began: float
    since: datetime
    why: str


class Reachability:
    """Checks each keeper about once a second, without waking it."""

    def __init__(self) -> None:
        self._silent: dict[str, _Silence] = {}

    def look(self, session: Session, row: Process, clock: float) -> float:
        """Return for how many seconds the keeper has been unreachable; 0 if it is reachable."""
        why = get_transport(row.transport).unreachable(row.handle, row.directory)
        if not why and session.unsent_since is not None:
            why = "it did not take what was sent"
        if not why:
            self._silent.pop(row.pk, None)
            return 0.0
        silence = self._silent.get(row.pk)
        if silence is None:
            began = clock if session.unsent_since is None else min(clock, session.unsent_since)
            since = timezone.now() - timedelta(seconds=clock - began)
            silence = self._silent[row.pk] = _Silence(began, since, why)
        silence.why = why
        return clock - silence.began

    def trouble(self, process_id: str, clock: float) -> str:
        """Return a trouble text for people; empty if the process is reachable."""
        silence = self._silent.get(process_id)
        if silence is None or clock - silence.began < PATIENCE_SECONDS:
            return ""
        return f"{_TROUBLE}{silence.since:%H:%M:%S} UTC: {silence.why}."

    def forget(self, process_id: str) -> None:
        """Drop an ended process."""
        self._silent.pop(process_id, None)


def is_ours(trouble: str) -> bool:
    """Return whether the trouble text was made by this module."""
    return trouble.startswith(_TROUBLE)
