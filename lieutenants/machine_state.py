"""The state of the machine of a remote lieutenant, apart from the state of its agent."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Protocol, Self

from django.utils import timezone

from lieutenants.states import RUNNING

# Contacts are pinged and noted several times within this time.
FRESH = timedelta(seconds=90)


class Contact(StrEnum):
    ANSWERS = "answers"
    UNREACHABLE = "unreachable"
    # Nobody follows: the lieutenant is paused or has no agent, or its follower has died.
    UNKNOWN = "unknown"


class Row(Protocol):
    """The columns that the state is made of."""

    status: str
    in_reach: bool | None
    reach_since: datetime | None
    heard_at: datetime | None


@dataclass(frozen=True)
class MachineState:
    """`since` is when the state began, None if that is not known."""

    state: Contact
    since: datetime | None
    heard_at: datetime | None

    @classmethod
    def of(cls, row: Row) -> Self:
        """Return the state that the columns of a lieutenant tell of."""
        if row.in_reach is False:
            return cls(Contact.UNREACHABLE, row.reach_since, row.heard_at)
        is_fresh = row.heard_at is not None and timezone.now() - row.heard_at < FRESH
        if row.in_reach and is_fresh and row.status in RUNNING:
            return cls(Contact.ANSWERS, row.reach_since, row.heard_at)
        return cls(Contact.UNKNOWN, None, row.heard_at)

    @property
    def answers(self) -> bool:
        """Return whether the machine answers."""
        return self.state is Contact.ANSWERS

    @property
    def is_unreachable(self) -> bool:
        """Return whether the machine should answer, but does not."""
        return self.state is Contact.UNREACHABLE
