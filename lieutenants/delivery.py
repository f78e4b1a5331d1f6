"""Messages on their way to an agent: each step of a row, with its evidence.

Every step is a conditional UPDATE, so that a step told twice is taken once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

from django.db import connection

from lieutenants.models import Lieutenant, Message
from lieutenants.states import MessageState

WITHDRAWN = "withdrawn by an abort before the agent began with it"
HANDLED = "a command, handled without a run"
DESTROYED = "the lieutenant was destroyed"
WITHDRAWN_BY = "withdrawn by {}"
# How the notes of messages begin that no agent will get any more.
WITHDRAWALS = ("withdrawn by ", DESTROYED)
PASSED_ON = {"note": "on its way to the agent"}

_BEGUN_NEXT = f"""
    SELECT id, text FROM {Message._meta.db_table}
    WHERE lieutenant_id = %s AND state IN (%s, %s) AND taken_up_at IS NULL
    ORDER BY created_at, id
"""  # noqa: S608 - only the table's name


def pass_on(message_id: str) -> bool:
    """Note that a queued message goes to the agent now. False if it was withdrawn meanwhile."""
    queued = Message.objects.filter(pk=message_id, state=MessageState.QUEUED)
    return bool(queued.update(evidence=PASSED_ON))


def take_back(message_id: str) -> bool:
    """Note that a message has not left after all, so that it can be withdrawn. False if decided."""
    queued = Message.objects.filter(pk=message_id, state=MessageState.QUEUED)
    return bool(queued.update(evidence=None))


def withdraw(message_id: str, note: str, at: datetime) -> bool:
    """Take back a message that nobody has passed on yet. False if it is too late for that."""
    waiting = Message.objects.filter(
        pk=message_id, state=MessageState.QUEUED, evidence__isnull=True
    )
    return bool(waiting.update(state=MessageState.REJECTED, decided_at=at, evidence={"note": note}))


def is_withdrawn(message: Message) -> bool:
    """Whether nobody will work on it since somebody took it back."""
    note = str((message.evidence or {}).get("note") or "")
    return message.state == MessageState.REJECTED and note.startswith(WITHDRAWALS)


def whereabouts(message: Message) -> str:
    """Say where a message is that is not withdrawn any more."""
    if message.state == MessageState.REJECTED:
        return "the agent has refused it"
    if message.taken_up_at is not None:
        return "the agent has begun with it; abort breaks off what it does"
    return "the agent has it; abort breaks off what it does, with all that waits"


def delivered(message_id: str, at: datetime) -> bool:
    """The agent's input has it, whole. False if that was known."""
    queued = Message.objects.filter(pk=message_id, state=MessageState.QUEUED)
    passed = queued.update(state=MessageState.DELIVERED, delivered_at=at, evidence=None)
    return bool(passed)


def decide(message_id: str, *, accepted: bool, evidence: dict[str, Any], at: datetime) -> bool:
    """The agent's verdict. False if the message was decided before."""
    state = MessageState.ACCEPTED if accepted else MessageState.REJECTED
    undecided = Message.objects.undecided().filter(pk=message_id)
    return bool(undecided.update(state=state, evidence=evidence, decided_at=at))


def take_up(
    lieutenant: Lieutenant, text: str, at: datetime, *, cover: Callable[[str], str] = str
) -> Message | None:
    """The message that the agent has begun with: the one of this text, else the oldest.

    The text was covered; rows that are older than a secret may hold it still.
    """
    # A QuerySet takes many times as long as its query; each message of an agent asks.
    with connection.cursor() as cursor:
        cursor.execute(_BEGUN_NEXT, [lieutenant.pk, MessageState.ACCEPTED, MessageState.DELIVERED])
        waiting = cursor.fetchall()
    if not waiting:
        return None
    same = (pk for pk, stored in waiting if text in (stored, cover(stored)))
    found = next(same, waiting[0][0])
    Message.objects.filter(pk=found).update(taken_up_at=at)
    return Message.objects.only("text").get(pk=found)


def withdraw_accepted(
    lieutenant: Lieutenant,
    texts: Sequence[str],
    at: datetime,
    *,
    cover: Callable[[str], str] = str,
) -> int:
    """Follow-ups that the agent gave back after an abort: they will not be worked on."""
    waiting = Message.objects.filter(
        lieutenant=lieutenant, state=MessageState.ACCEPTED, taken_up_at__isnull=True
    )
    rows = waiting.values_list("pk", "text") if texts else []
    same = [pk for pk, text in rows if text in texts or cover(text) in texts]
    evidence = {"note": WITHDRAWN}
    return waiting.filter(pk__in=same).update(
        state=MessageState.REJECTED, decided_at=at, evidence=evidence
    )


def withdraw_stranded(lieutenant: Lieutenant, at: datetime) -> int:
    """After an abort: all that the agent accepted and has not begun with."""
    accepted = Message.objects.filter(lieutenant=lieutenant, state=MessageState.ACCEPTED)
    waiting = accepted.filter(taken_up_at__isnull=True)
    evidence = {"note": WITHDRAWN}
    return waiting.update(state=MessageState.REJECTED, decided_at=at, evidence=evidence)


def withdraw_queued(lieutenant: Lieutenant, note: str, at: datetime) -> int:
    """Messages that no agent has seen yet will not be sent."""
    queued = Message.objects.filter(lieutenant=lieutenant, state=MessageState.QUEUED)
    return queued.update(state=MessageState.REJECTED, decided_at=at, evidence={"note": note})


def all_done(lieutenant: Lieutenant, at: datetime) -> None:
    """The agent rests: what it accepted it has done, be it only a command without work."""
    Message.objects.filter(
        lieutenant=lieutenant, state=MessageState.ACCEPTED, taken_up_at__isnull=True
    ).update(taken_up_at=at)


def handled(message: Message, at: datetime) -> bool:
    """Note that the agent handled a message as a command. Return False if that was known."""
    evidence = {**(message.evidence or {}), "note": HANDLED}
    waiting = Message.objects.filter(pk=message.pk, taken_up_at__isnull=True)
    return bool(waiting.update(taken_up_at=at, evidence=evidence))


def requeue(lieutenant: Lieutenant) -> int:
    """The agent ended before it began with these: its successor gets them."""
    lost = Message.objects.filter(
        lieutenant=lieutenant,
        # A queued one may have been on its way.
        state__in=[MessageState.QUEUED, MessageState.DELIVERED, MessageState.ACCEPTED],
        taken_up_at__isnull=True,
    )
    return lost.update(state=MessageState.QUEUED, delivered_at=None, decided_at=None, evidence=None)
