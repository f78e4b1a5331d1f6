"""Detect keepers that do not respond, since when, and show it as trouble of their lieutenants."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.utils import timezone

from lieutenants.models import Process
from lieutenants.sessions import inputs
from lieutenants.sessions.session import Session
from lieutenants.supervision.transports import transport_of
from lieutenants.troubles import (
    MACHINE_UNREACHABLE,
    SUPERVISOR_SILENT,
    is_reachability_trouble,
)

logger = logging.getLogger(__name__)

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
        # Trouble of other kinds that is hidden meanwhile.
        self._hidden: dict[str, str] = {}
        # Sessions whose trouble has changed and is not saved yet.
        self.changed: list[Session] = []

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

    def out_since(self, process_id: str, clock: float) -> datetime | None:
        """Return since when the process is out of reach; None if it is reachable."""
        outage = self._outages.get(process_id)
        return outage.since if outage and clock - outage.began >= GRACE_SECONDS else None

    def trouble(self, process_id: str, clock: float) -> str:
        """Return a trouble text for people; empty if the process is reachable."""
        outage = self._outages.get(process_id)
        if outage is None or self.out_since(process_id, clock) is None:
            return ""
        return f"{outage.text}{outage.since:%H:%M:%S} UTC: {outage.why}."

    def show(self, session: Session, clock: float) -> None:
        """Set the trouble text while the keeper does not respond, and clear it afterwards."""
        trouble = self.trouble(session.process.pk, clock)
        shown = session.lieutenant.trouble
        if trouble == shown or not (trouble or is_reachability_trouble(shown)):
            return
        logger.warning("%s: %s", session.lieutenant, trouble or "its supervisor answers again")
        if not is_reachability_trouble(shown):
            self._hidden[session.process.pk] = shown
        if trouble:
            session.handle(inputs.TroubleFound(trouble))
        else:
            # Unknown if it was hidden by an earlier follower.
            session.handle(inputs.TroubleOver(self._hidden.pop(session.process.pk, None)))
        self.changed.append(session)

    def take_changed(self) -> list[Session]:
        """Return the sessions whose trouble has changed since the last call."""
        changed, self.changed = self.changed, []
        return changed

    def is_out(self, process_id: str) -> bool:
        """Return whether the keeper was out of reach at the last check."""
        return process_id in self._outages

    def forget(self, process_id: str) -> None:
        """Drop an ended process."""
        self._outages.pop(process_id, None)
        self._hidden.pop(process_id, None)
