"""Working lieutenants and their current turns, for the home page."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from django.db.models import Count, F, Sum
from django.utils import timezone

from lieutenants.models import Answer, Lieutenant, Message, Usage
from lieutenants.states import A_PERSON, A_WRITING_MODEL, Outcome, Status

_COLUMNS = ("name", "status", "status_since", "waiting_for", "last_activity_at")
_TOOL = "tool "


@dataclass(frozen=True)
class Work:
    """A lieutenant at work: what it has used in this turn, and how many messages wait."""

    lieutenant: Lieutenant
    tokens: int = 0
    cost: Decimal = Decimal(0)
    queued: int = 0

    @property
    def since(self) -> datetime:
        """The beginning of its work."""
        return self.lieutenant.status_since

    @property
    def doing(self) -> str:
        """Return what it does, in words."""
        what = self.lieutenant.waiting_for
        if what == A_WRITING_MODEL:
            return "writes its answer"
        if what.startswith(_TOOL):
            return f"runs {what.removeprefix(_TOOL)}"
        if what.startswith(A_PERSON) or not what:
            return what or "begins"
        return f"waits for {what}"

    @property
    def tokens_a_minute(self) -> int:
        """Return the mean of this turn."""
        minutes = (timezone.now() - self.since).total_seconds() / 60
        return round(self.tokens / max(minutes, 0.25))


def list_at_work(most: int) -> list[Work]:
    """Return the lieutenants that work, those that do so for the longest first, in three queries.

    `task` of each has the head of its newest message.
    """
    found = Lieutenant.objects.filter(status=Status.WORKING).with_task()
    rows = list(found.order_by("status_since", "pk").only(*_COLUMNS)[:most])
    if not rows:
        return []
    keys = [row.pk for row in rows]
    waiting = Message.objects.pending().filter(lieutenant__in=keys).order_by()
    queued = dict(waiting.values_list("lieutenant").annotate(Count("pk")))
    turns = Answer.objects.filter(lieutenant__in=keys, outcome=Outcome.OPEN).values("pk")
    tokens = F("input") + F("output") + F("cache_read") + F("cache_write")
    used = Usage.objects.filter(answer__in=turns).order_by().values_list("lieutenant")
    rows_of_use = used.annotate(total=Sum(tokens), dollars=Sum("cost"))
    sums = {pk: (total, dollars) for pk, total, dollars in rows_of_use}
    return [Work(row, *sums.get(row.pk, (0, Decimal(0))), queued.get(row.pk, 0)) for row in rows]
