"""Outcome of a message, and the agent's answer to it.

A message belongs to the turn in which the agent took it up. Its part of the turn ends where the
next queued message begins; a steering message does not begin a new part.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from django.db.models import Q

from lieutenants.messages.delivery import is_withdrawn
from lieutenants.models import Answer, Entry, Lieutenant, Message, Process
from lieutenants.states import MessageState, Mode, Outcome, Status
from lieutenants.transcript.outputs import Output, output_of_entries


class MessageOutcome(StrEnum):
    """Outcome of a message."""

    PENDING = "pending"
    COMPLETED = "completed"
    ABORTED = "aborted"
    ERROR = "error"
    # The process of the agent ended before the answer was complete.
    INTERRUPTED = "interrupted"


@dataclass(frozen=True)
class Result:
    """Outcome of one message."""

    outcome: MessageOutcome
    error: str = ""
    answer_id: int | None = None
    # Entry ids: first entry of its part of the turn, and first entry of the next part.
    begin: int = 0
    end: int | None = None

    def answer(self) -> Output | None:
        """Return the answer so far; None if it has not begun."""
        if self.answer_id is None:
            return None
        part = Entry.objects.filter(answer=self.answer_id, kind=Entry.Kind.TEXT, pk__gt=self.begin)
        if self.end is not None:
            part = part.filter(pk__lt=self.end)
        return output_of_entries(part)


def results_of(messages: Sequence[Message]) -> dict[str, Result]:
    """Return the outcome of each message by its id, in four queries."""
    begins = _user_entries(Q(message__in=[message.pk for message in messages]))
    begun = {entry.message_id: entry for entry in begins}
    ids = {entry.answer_id for entry in begins if entry.answer_id}
    # Do not load the texts: they may be very long.
    turns = Answer.objects.only("id", "outcome", "error").in_bulk(ids)
    later = _later_messages(turns)
    return {each.pk: _result_of(each, begun.get(each.pk), turns, later) for each in messages}


def result_of(message: Message) -> Result:
    """Return the outcome of one message."""
    return results_of([message])[message.pk]


def is_over(message_id: str) -> bool:
    """Return whether the outcome of a message will not change any more."""
    found = Message.objects.select_related("lieutenant").filter(pk=message_id)
    message = found.defer("text", "lieutenant__system_prompt", "lieutenant__directive").first()
    if message is None:
        return True
    waits = message.state != MessageState.REJECTED and message.taken_up_at is None
    if not waits and result_of(message).outcome != MessageOutcome.PENDING:
        return True
    return not _may_continue(message.lieutenant)


def _may_continue(lieutenant: Lieutenant) -> bool:
    """Return whether its agent runs, is ending, or will be restarted."""
    return (
        lieutenant.should_run
        or (lieutenant.status == Status.ERROR and lieutenant.restart_at is not None)
        or Process.objects.live().filter(lieutenant=lieutenant).exists()
    )


def _user_entries(which: Q) -> list[Entry]:
    """Return the entries of messages that the agent took up, without slash commands."""
    rows = Entry.objects.filter(which, kind=Entry.Kind.USER).order_by("id")
    found = rows.only("id", "answer_id", "message_id", "data")
    return [entry for entry in found if not entry.data or "command" not in entry.data]


def _later_messages(turns: Iterable[int]) -> dict[int, list[int]]:
    """Return, by turn, the entries that begin a part of it: prompts and follow-ups."""
    found: dict[int, list[int]] = {}
    which = Q(answer__in=list(turns)) & ~Q(message__mode=Mode.STEER) & Q(message__isnull=False)
    for entry in _user_entries(which):
        if entry.answer_id is not None:
            found.setdefault(entry.answer_id, []).append(entry.pk)
    return found


def _result_of(
    message: Message, begun: Entry | None, turns: dict[int, Answer], later: dict[int, list[int]]
) -> Result:
    if message.state == MessageState.REJECTED:
        return _rejected(message)
    if begun is None:
        # The agent handles a command without a turn.
        done = message.taken_up_at is not None and message.state == MessageState.ACCEPTED
        return Result(MessageOutcome.COMPLETED if done else MessageOutcome.PENDING)
    turn = turns.get(begun.answer_id or 0)
    if turn is None:
        return Result(MessageOutcome.PENDING)
    end = next((pk for pk in later.get(turn.pk, ()) if pk > begun.pk), None)
    if end is not None:
        outcome, error = MessageOutcome.COMPLETED, ""
    elif turn.outcome == Outcome.OPEN:
        outcome, error = MessageOutcome.PENDING, ""
    else:
        outcome, error = MessageOutcome(turn.outcome), turn.error
    return Result(outcome, error, turn.pk, begun.pk, end)


def _rejected(message: Message) -> Result:
    evidence = message.evidence or {}
    why = str(evidence.get("note") or evidence.get("error") or "the agent refused it")
    withdrawn = is_withdrawn(message)
    return Result(MessageOutcome.ABORTED if withdrawn else MessageOutcome.ERROR, why)
