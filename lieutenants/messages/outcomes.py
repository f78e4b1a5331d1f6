"""Outcome of a message, and the agent's answer to it.

A message belongs to the turn in which the agent took it up. Its part of the turn ends where the
next queued message begins; a steering message does not begin a new part.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
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
    ids = {entry.answer_id for entry in begins if entry.answer_id}
    # Do not load the texts: they may be very long.
    turns = Answer.objects.only("id", "outcome", "error").in_bulk(ids)
    return results_from(messages, begins, turns, _later_messages(turns))


def results_from(
    messages: Iterable[Message],
    begins: Iterable[Entry],
    turns: Mapping[int, Answer],
    later: Mapping[int, Sequence[int]],
) -> dict[str, Result]:
    """Return the outcome of each message by its id.

    `begins` are their entries, oldest first, `turns` the turns of these, and `later` the entries of
    each turn that begin a part of it.
    """
    begun = {entry.message_id: entry for entry in begins}
    return {each.pk: _result_of(each, begun.get(each.pk), turns, later) for each in messages}


def result_of(message: Message) -> Result:
    """Return the outcome of one message."""
    return results_of([message])[message.pk]


def is_over(message_id: str) -> bool:
    """Return whether the outcome of a message will not change any more."""
    return all(each.is_over for each in progress_of([message_id]))


@dataclass(frozen=True)
class Progress:
    """A message, its outcome, and whether that will not change any more."""

    message: Message
    result: Result
    is_over: bool


def progress_of(message_ids: Sequence[str]) -> list[Progress]:
    """Return the progress of those of the messages that exist, in six queries at most."""
    rows = Message.objects.select_related("lieutenant").filter(pk__in=message_ids)
    rows = rows.defer("text", "lieutenant__system_prompt", "lieutenant__directive")
    messages = list(rows)
    # Read before the outcomes: what an agent that has ended then wrote is complete.
    continuing = _continuing({each.lieutenant_id: each.lieutenant for each in messages})
    results = results_of(messages)
    return [
        Progress(
            each,
            results[each.pk],
            _is_final(each, results[each.pk]) or each.lieutenant_id not in continuing,
        )
        for each in messages
    ]


def _is_final(message: Message, result: Result) -> bool:
    waits = message.state != MessageState.REJECTED and message.taken_up_at is None
    return not waits and result.outcome != MessageOutcome.PENDING


def _continuing(lieutenants: Mapping[str, Lieutenant]) -> set[str]:
    """Return the ids of those whose agents run, are ending, or will be restarted."""
    found = {
        pk
        for pk, row in lieutenants.items()
        if row.should_run or (row.status == Status.ERROR and row.restart_at is not None)
    }
    if left := lieutenants.keys() - found:
        live = Process.objects.live().filter(lieutenant__in=left)
        found |= set(live.values_list("lieutenant_id", flat=True))
    return found


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
    message: Message,
    begun: Entry | None,
    turns: Mapping[int, Answer],
    later: Mapping[int, Sequence[int]],
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
