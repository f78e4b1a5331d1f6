"""What the edge is told to wait for before it gives an answer to its client, as a header.

Web threads are few, so none of them waits: web answers at once, and the edge keeps the answer back.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lieutenants import outcomes
from lieutenants.models import Lieutenant
from lieutenants.services import at_rest as is_at_rest

HEADER = "Reef-Wait"


@dataclass(frozen=True)
class Wait:
    """A lieutenant to wait for, or one of its messages."""

    lieutenant: str
    message: str
    seconds: float

    def is_over(self) -> bool:
        """Whether it has come to its end; one query or a few."""
        return outcomes.is_over(self.message) if self.message else is_at_rest(self.lieutenant)

    def state(self) -> dict[str, Any]:
        """Return how the lieutenant is now."""
        row = Lieutenant.objects.only("status", "error").filter(pk=self.lieutenant).first()
        return {"status": row.status, "error": row.error or None} if row else {}


def at_rest(lieutenant_id: str, seconds: int) -> str:
    """The header of an answer that waits for the end of a start or a stop."""
    return f"{seconds} {lieutenant_id}"


def answered(lieutenant_id: str, message_id: str, seconds: int) -> str:
    """The header of an answer that waits for what becomes of a message."""
    return f"{seconds} {lieutenant_id} {message_id}"


def parse(header: str) -> Wait:
    """Return what a header says to wait for."""
    seconds, lieutenant, *message = header.split(" ")
    return Wait(lieutenant, message[0] if message else "", float(seconds))
