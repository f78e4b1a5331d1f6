"""Waits that the web passes to the edge in a header of the response.

Web threads are few, so they never wait: the web responds at once, and the edge holds the response
until the wait is over.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lieutenants.messages import outcomes
from lieutenants.models import Lieutenant
from lieutenants.services import at_rest as is_at_rest

HEADER = "Reef-Wait"


@dataclass(frozen=True)
class Wait:
    """A wait for a lieutenant, or for one of its messages."""

    lieutenant: str
    message: str
    seconds: float

    def is_over(self) -> bool:
        """Return whether the wait is over. Needs one query or a few."""
        return outcomes.is_over(self.message) if self.message else is_at_rest(self.lieutenant)

    def state(self) -> dict[str, Any]:
        """Return the lieutenant's current state."""
        row = Lieutenant.objects.only("status", "error").filter(pk=self.lieutenant).first()
        return {"status": row.status, "error": row.error or None} if row else {}


def at_rest(lieutenant_id: str, seconds: int) -> str:
    """Return the header of a response that waits for the end of a start or a stop."""
    return f"{seconds} {lieutenant_id}"


def answered(lieutenant_id: str, message_id: str, seconds: int) -> str:
    """Return the header of a response that waits for the result of a message."""
    return f"{seconds} {lieutenant_id} {message_id}"


def parse(header: str) -> Wait:
    """Parse the header."""
    seconds, lieutenant, *message = header.split(" ")
    return Wait(lieutenant, message[0] if message else "", float(seconds))
