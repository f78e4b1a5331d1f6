"""Delivery states of messages, each with its evidence.

Every step is a conditional UPDATE, so that an event that is applied twice has one effect.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

from django.conf import settings
from django.db.models import QuerySet

from lieutenants import queries
from lieutenants.models import Lieutenant, Message
from lieutenants.states import MessageState

WITHDRAWN = "withdrawn by an abort before the agent began with it"
HANDLED = "a command, handled without a run"
DESTROYED = "the lieutenant was destroyed"
WITHDRAWN_BY = "withdrawn by {}"
# Prefixes of the notes of messages that no agent will get.
WITHDRAWAL_PREFIXES = ("withdrawn by ", DESTROYED)
SENDING = {"note": "on its way to the agent"}


def mark_sending(message_id: str) -> bool:
    """Mark a queued message as being sent. Return False if it was withdrawn meanwhile."""
    return bool(_queued_here(message_id).update(evidence=SENDING))


def unmark_sending(message_id: str) -> bool:
    """Unmark a message that was not sent, so that it can be withdrawn. Return False if decided."""
    return bool(_queued_here(message_id).update(evidence=None))


def _queued_here(message_id: str) -> QuerySet[Message]:
    """Return a queued message, unless another follower sends it now."""
    here = {"lieutenant__data_folder": settings.DATA_FOLDER_ID}
    return Message.objects.filter(pk=message_id, state=MessageState.QUEUED, **here)


def withdraw(message_id: str, note: str, at: datetime) -> bool:
    """Reject a queued message that is not being sent yet. Return False if it is too late."""
    waiting = Message.objects.filter(pk=message_id).not_sent()
    return bool(waiting.update(state=MessageState.REJECTED, decided_at=at, evidence={"note": note}))


def is_withdrawn(message: Message) -> bool:
    """Return whether the message was rejected because it was withdrawn."""
    note = str((message.evidence or {}).get("note") or "")
    return message.state == MessageState.REJECTED and note.startswith(WITHDRAWAL_PREFIXES)


def why_too_late(message: Message) -> str:
    """Return why a message cannot be withdrawn any more, as text for people."""
    if message.state == MessageState.REJECTED:
        return "the agent has refused it"
    if message.taken_up_at is not None:
        return "the agent has begun with it; abort breaks off what it does"
    return "the agent has it; abort breaks off what it does, with all that waits"


def mark_delivered(message_id: str, at: datetime) -> bool:
    """Mark a message as delivered to the agent's stdin. Return False if it was not queued."""
    queued = Message.objects.filter(pk=message_id, state=MessageState.QUEUED)
    passed = queued.update(state=MessageState.DELIVERED, delivered_at=at, evidence=None)
    return bool(passed)


def decide(message_id: str, *, accepted: bool, evidence: Mapping[str, Any], at: datetime) -> bool:
    """Store whether the agent accepted the message. Return False if that was decided before."""
    state = MessageState.ACCEPTED if accepted else MessageState.REJECTED
    undecided = Message.objects.undecided().filter(pk=message_id)
    return bool(undecided.update(state=state, evidence=evidence, decided_at=at))


def mark_begun(
    lieutenant: Lieutenant, text: str, at: datetime, *, cover: Callable[[str], str] = str
) -> Message | None:
    """Find the message that the agent has begun, by its text, else the oldest, and mark it.

    `text` is covered, but rows older than a secret may still contain the secret.
    """
    # Runs for each message of an agent, and a QuerySet takes many times as long as its query.
    waiting = queries.messages_not_begun(lieutenant.pk)
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
    """Reject follow-ups that the agent returned after an abort. Return their number."""
    waiting = Message.objects.filter(
        lieutenant=lieutenant, state=MessageState.ACCEPTED, taken_up_at__isnull=True
    )
    rows = waiting.values_list("pk", "text") if texts else []
    same = [pk for pk, text in rows if text in texts or cover(text) in texts]
    evidence = {"note": WITHDRAWN}
    return waiting.filter(pk__in=same).update(
        state=MessageState.REJECTED, decided_at=at, evidence=evidence
    )


def withdraw_unstarted(lieutenant: Lieutenant, at: datetime) -> int:
    """Reject all messages that the agent accepted and did not begin before an abort."""
    accepted = Message.objects.filter(lieutenant=lieutenant, state=MessageState.ACCEPTED)
    waiting = accepted.filter(taken_up_at__isnull=True)
    evidence = {"note": WITHDRAWN}
    return waiting.update(state=MessageState.REJECTED, decided_at=at, evidence=evidence)


def withdraw_queued(lieutenant: Lieutenant, note: str, at: datetime) -> int:
    """Reject all queued messages. Return their number."""
    queued = Message.objects.filter(lieutenant=lieutenant, state=MessageState.QUEUED)
    return queued.update(state=MessageState.REJECTED, decided_at=at, evidence={"note": note})


def mark_all_begun(lieutenant: Lieutenant, at: datetime) -> None:
    """Mark all accepted messages as begun when the agent settles, even commands without a run."""
    Message.objects.filter(
        lieutenant=lieutenant, state=MessageState.ACCEPTED, taken_up_at__isnull=True
    ).update(taken_up_at=at)


def mark_handled(message: Message, at: datetime) -> bool:
    """Mark a message as handled by the agent as a command. Return False if it was marked before."""
    evidence = {**(message.evidence or {}), "note": HANDLED}
    waiting = Message.objects.filter(pk=message.pk, taken_up_at__isnull=True)
    return bool(waiting.update(taken_up_at=at, evidence=evidence))


def requeue(lieutenant: Lieutenant) -> int:
    """Queue the messages that an ended agent did not begin again, for its successor."""
    lost = Message.objects.filter(
        lieutenant=lieutenant,
        # Queued messages may have been sent already.
        state__in=[MessageState.QUEUED, MessageState.DELIVERED, MessageState.ACCEPTED],
        taken_up_at__isnull=True,
    )
    return lost.update(state=MessageState.QUEUED, delivered_at=None, decided_at=None, evidence=None)
