"""Waits that the web passes to the edge in a header of the response.

Web threads are few, so they never wait: the web responds at once, and the edge holds the response
until the wait is over.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from lieutenants.conditions import Conditions
from lieutenants.messages import outcomes
from lieutenants.models import Lieutenant, Question
from lieutenants.services import at_rest as is_at_rest

HEADER = "Reef-Wait"
# No lieutenant has this id.
_QUESTION = "question"


@dataclass(frozen=True)
class Wait:
    """A wait for a lieutenant, for one of its messages, or for the answer to a question."""

    lieutenant: str
    message: str
    seconds: float
    question: str = ""

    # Events may be lost, so the rows are looked at without them, too.
    poll_seconds: ClassVar[float] = 0.5
    event: ClassVar[None] = None

    @property
    def arguments(self) -> None:
        """No tool waits."""

    @property
    def subjects(self) -> Sequence[str]:
        """Return the ids of what may end the wait by its events."""
        return [self.question or self.lieutenant]

    def is_over(self) -> bool:
        """Return whether the wait is over. Needs one query or a few."""
        if self.question:
            return not Question.objects.open().filter(pk=self.question).exists()
        return outcomes.is_over(self.message) if self.message else is_at_rest(self.lieutenant)

    def state(self) -> dict[str, Any]:
        """Return the lieutenant's current state."""
        if self.question:
            return {}
        row = Lieutenant.objects.only("status", "error").filter(pk=self.lieutenant).first()
        return {"status": row.status, "error": row.error or None} if row else {}


def at_rest(lieutenant_id: str, seconds: int) -> str:
    """Return the header of a response that waits for the end of a start or a stop."""
    return f"{seconds} {lieutenant_id}"


def answered(lieutenant_id: str, message_id: str, seconds: int) -> str:
    """Return the header of a response that waits for the result of a message."""
    return f"{seconds} {lieutenant_id} {message_id}"


def decided(question_id: str, seconds: int) -> str:
    """Return the header of a response that waits until a question is decided."""
    return f"{seconds} {_QUESTION} {question_id}"


def parse(header: str) -> Wait | Conditions:
    """Parse the header."""
    if header.startswith("{"):
        return Conditions.parse(header)
    seconds, lieutenant, *message = header.split(" ")
    if lieutenant == _QUESTION:
        return Wait("", "", float(seconds), question=message[0])
    return Wait(lieutenant, message[0] if message else "", float(seconds))
