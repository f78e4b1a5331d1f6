"""Unread marks: which lieutenants have finished a turn since a person looked at them.

A turn counts as unread for `REMEMBERED` at most, so that a new account does not begin with all that
ever happened, and the queries stay small.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from django.contrib.auth.models import AbstractBaseUser, AnonymousUser
from django.db.models.functions import Substr
from django.utils import timezone

from lieutenants.models import Answer, Lieutenant, ReadMark
from lieutenants.states import Outcome, Status
from lieutenants.transcript.last_turns import last_turns

REMEMBERED = timedelta(days=3)
MAX_SCANNED = 2000
_MAX_TEXT = 300

Person = AbstractBaseUser | AnonymousUser


@dataclass(frozen=True)
class FinishedTurn:
    """The newest unread turn of a lieutenant, and how many it has in all."""

    turn: Answer
    count: int


class ReadMarks:
    """Up to when one person has read each lieutenant's answers, read by one query."""

    def __init__(self, user: Person) -> None:
        rows = ReadMark.objects.filter(user=user.pk).values_list("lieutenant_id", "read_until")
        self._marks: dict[str | None, datetime] = dict(rows)
        earliest = timezone.now() - REMEMBERED
        self.since = max(earliest, self._marks.get(None, earliest))

    def is_unread(self, lieutenant: str, ended_at: datetime | None) -> bool:
        """Return whether a turn ended after the person looked at the lieutenant."""
        if ended_at is None:
            return False
        return ended_at > max(self.since, self._marks.get(lieutenant, self.since))


def finished_turns(marks: ReadMarks, most: int) -> tuple[list[FinishedTurn], int]:
    """Return the newest unread turns, one for each lieutenant, and how many lieutenants have some.

    Their answers' texts are shortened (`head`). The lieutenants are loaded.
    """
    # Named one by one, so that the index by outcome and end is used.
    outcomes = [each for each in Outcome if each is not Outcome.OPEN]
    ended = Answer.objects.filter(outcome__in=outcomes, ended_at__gt=marks.since)
    rows = ended.exclude(lieutenant__status=Status.DESTROYED).order_by("-ended_at", "-id")
    newest: dict[str, int] = {}
    counts: dict[str, int] = {}
    for pk, lieutenant, ended_at in rows.values_list("pk", "lieutenant", "ended_at")[:MAX_SCANNED]:
        if marks.is_unread(lieutenant, ended_at):
            newest.setdefault(lieutenant, pk)
            counts[lieutenant] = counts.get(lieutenant, 0) + 1
    shown = list(newest.values())[:most]
    head = Substr("text", 1, _MAX_TEXT)
    loaded = Answer.objects.filter(pk__in=shown).defer("text").annotate(head=head)
    loaded = loaded.select_related("lieutenant").order_by("-ended_at", "-id")
    return [FinishedTurn(turn, counts[turn.lieutenant_id]) for turn in loaded], len(newest)


def mark_read(user: Person, lieutenant: Lieutenant) -> None:
    """Note that the person has read all turns of the lieutenant that have ended.

    Writes nothing if that is noted already.
    """
    turn = last_turns([lieutenant.pk]).get(lieutenant.pk)
    if turn is None or turn.ended_at is None:
        return
    if not ReadMarks(user).is_unread(lieutenant.pk, turn.ended_at):
        return
    _mark(user, lieutenant, turn.ended_at)


def mark_all_read(user: Person) -> None:
    """Note that the person has read the turns of all lieutenants."""
    mine = ReadMark.objects.filter(user=user.pk)
    _mark(user, None, timezone.now())
    mine.filter(lieutenant__isnull=False).delete()


def _mark(user: Person, lieutenant: Lieutenant | None, until: datetime) -> None:
    assert user.pk is not None, "nobody has signed in"
    row = {"user_id": user.pk, "lieutenant": lieutenant}
    ReadMark.objects.update_or_create(**row, defaults={"read_until": until})
