"""Detect keepers that do not respond, and since when."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from django.utils import timezone

from lieutenants.models import Process
from lieutenants.sessions.session import Session
from lieutenants.supervision.transports import transport_of
from lieutenants.troubles import MACHINE_UNREACHABLE, SUPERVISOR_SILENT

# A keeper whose socket was removed binds it again within this time.
GRACE_SECONDS = 3.0


@dataclass
class _Outage:
    """`began` is a time of the follower's clock, `since` the same in wall-clock time."""

    began: float
    since: datetime
    why: str
    text: str


class Reachability:
    """Checks each keeper about once a second, without waking it."""

    def __init__(self) -> None:
        self._outages: dict[str, _Outage] = {}

    def check(self, session: Session, row: Process, clock: float) -> float:
        """Return for how many seconds the keeper has been unreachable; 0 if it is reachable."""
        transport = transport_of(row)
        why = transport.unreachable(row.handle, row.directory)
        if not why and session.unsent_since is not None:
            why = "it did not take what was sent"
        if not why:
            self._outages.pop(row.pk, None)
            return 0.0
        outage = self._outages.get(row.pk)
        if outage is None:
            began = clock if session.unsent_since is None else min(clock, session.unsent_since)
            since = timezone.now() - timedelta(seconds=clock - began)
            text = MACHINE_UNREACHABLE if transport.is_remote else SUPERVISOR_SILENT
            outage = self._outages[row.pk] = _Outage(began, since, why, text)
        outage.why = why
        return clock - outage.began

    def trouble(self, process_id: str, clock: float) -> str:
        """Return a trouble text for people; empty if the process is reachable."""
        outage = self._outages.get(process_id)
        if outage is None or clock - outage.began < GRACE_SECONDS:
            return ""
        return f"{outage.text}{outage.since:%H:%M:%S} UTC: {outage.why}."

    def is_out(self, process_id: str) -> bool:
        """Return whether the keeper was out of reach at the last check."""
        return process_id in self._outages

    def forget(self, process_id: str) -> None:
        """Drop an ended process."""
        self._outages.pop(process_id, None)
