"""Effects of the reducer: changes of rows that the recorder makes, and commands for the agent.

Where an effect has a condition, the recorder checks it against the rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from lieutenants.agents import events
from lieutenants.states import Outcome, Status

NOTICE, ERROR = "notice", "error"


class Effect:
    """Base of all effects."""

    __slots__ = ()


# -- transcript --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RecordMessage(Effect):
    """Record a complete message of the model with its usage."""

    message: events.AssistantMessage
    at: datetime


@dataclass(frozen=True, slots=True)
class AddEntry(Effect):
    """Add an entry."""

    at: datetime
    text: str
    kind: str = NOTICE
    is_error: bool = False


@dataclass(frozen=True, slots=True)
class AddLimitedEntry(Effect):
    """Add an entry of a cause of which only so many a minute are kept."""

    cause: str
    at: datetime
    text: str
    kind: str = NOTICE
    is_error: bool = False
    data: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class AddFailure(Effect):
    """Add an entry for a failure of the model, unless the previous run failed equally."""

    at: datetime
    text: str


@dataclass(frozen=True, slots=True)
class CountOmitted(Effect):
    """Count records that the keeper omitted, and report them."""

    at: datetime
    cause: str
    count: int
    size: int


@dataclass(frozen=True, slots=True)
class EndFlood(Effect):
    """Stop showing a flood as trouble."""

    cause: str


@dataclass(frozen=True, slots=True)
class ReportOmitted(Effect):
    """Report omitted rows whose report is due; with `is_last` all of them."""

    at: datetime
    is_last: bool = False


@dataclass(frozen=True, slots=True)
class OpenAnswer(Effect):
    """Begin an answer, unless one is running."""

    at: datetime


@dataclass(frozen=True, slots=True)
class CloseAnswer(Effect):
    """Finish the running answer, if there is one."""

    at: datetime
    outcome: Outcome
    failure: str = ""


@dataclass(frozen=True, slots=True)
class CloseBlocks(Effect):
    """Finish blocks whose end was not reported."""


@dataclass(frozen=True, slots=True)
class CloseCalls(Effect):
    """Finish tool calls whose end was not reported; with `is_failure` as failed ones."""

    is_failure: bool = False


@dataclass(frozen=True, slots=True)
class DropFailedTexts(Effect):
    """Exclude the texts of a failed attempt from the answer."""


@dataclass(frozen=True, slots=True)
class CountUsage(Effect):
    """Record tokens that the agent used beside its messages, with the model in use."""

    at: datetime
    usage: events.TokenUsage | None
    stop_reason: str


# -- messages ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class DecideMessage(Effect):
    """Store whether the agent accepted a message, unless that is stored already."""

    message: str
    is_accepted: bool
    evidence: Mapping[str, Any]
    at: datetime


@dataclass(frozen=True, slots=True)
class WithdrawReturned(Effect):
    """Reject the accepted messages whose texts the agent returned from its queue."""

    texts: tuple[str, ...]
    at: datetime


@dataclass(frozen=True, slots=True)
class WithdrawUnstarted(Effect):
    """Reject all accepted messages that the agent has not begun."""

    at: datetime


@dataclass(frozen=True, slots=True)
class WithdrawQueued(Effect):
    """Reject all queued messages, since the lieutenant was destroyed."""

    at: datetime


@dataclass(frozen=True, slots=True)
class RequeueMessages(Effect):
    """Queue all messages again that the ended agent has not begun."""


@dataclass(frozen=True, slots=True)
class MarkAllBegun(Effect):
    """Mark all accepted messages as begun."""

    at: datetime


@dataclass(frozen=True, slots=True)
class ShowCommand(Effect):
    """Add an entry for the message if it is a command, unless it has one."""

    message: str
    at: datetime


@dataclass(frozen=True, slots=True)
class MarkHandled(Effect):
    """Mark a message as handled without a run, unless the agent took it up."""

    message: str
    at: datetime


@dataclass(frozen=True, slots=True)
class FinishCommands(Effect):
    """Mark accepted commands that the agent did not take up as handled."""

    at: datetime


# -- questions ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class OpenQuestion(Effect):
    """Ask people what a dialog asks; it may wait for this long."""

    dialog: events.Dialog
    at: datetime
    limit_seconds: int


@dataclass(frozen=True, slots=True)
class CloseQuestion(Effect):
    """Store that the agent has the reply to a dialog, and report who decided what."""

    request_id: str
    at: datetime


@dataclass(frozen=True, slots=True)
class WithdrawQuestions(Effect):
    """Withdraw the open questions of all dialogs of the process, with this reason.

    If the process has ended, no answers are delivered any more.
    """

    note: str
    has_ended: bool = False


# -- lieutenant and process --------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SetTrouble(Effect):
    """Show a trouble; empty: none."""

    text: str


@dataclass(frozen=True, slots=True)
class RestoreTrouble(Effect):
    """Show the trouble of the failure series; without one, this failure."""

    failure: str = ""


@dataclass(frozen=True, slots=True)
class DropEarlierSeries(Effect):
    """Drop the failure series if a new session was started meanwhile."""


@dataclass(frozen=True, slots=True)
class MoveStatus(Effect):
    """Move the lieutenant if its status is one of `origins`, with further columns.

    `then` is only done if it was moved.
    """

    to: Status
    reason: str
    origins: frozenset[Status]
    columns: Mapping[str, Any] = field(default_factory=dict)
    then: tuple[Effect, ...] = ()


@dataclass(frozen=True, slots=True)
class StoreModelInUse(Effect):
    """Store the model in use, and how it differs from the wanted one."""

    name: str
    problem: str


@dataclass(frozen=True, slots=True)
class StoreModelProblem(Effect):
    """Store that the model in use is not among the agent's models."""

    problem: str


@dataclass(frozen=True, slots=True)
class StoreModels(Effect):
    """Store the list of the agent's models."""

    models: tuple[events.Model, ...]


@dataclass(frozen=True, slots=True)
class StoreContextUsage(Effect):
    """Store the usage of the context; None: unknown."""

    figures: Mapping[str, float] | None


@dataclass(frozen=True, slots=True)
class MarkReady(Effect):
    """Store that the agent is ready."""

    at: datetime


@dataclass(frozen=True, slots=True)
class RequestStop(Effect):
    """Ask for the end of the process."""

    at: datetime


@dataclass(frozen=True, slots=True)
class EndProcess(Effect):
    """Store the end of the process."""

    at: datetime
    reason: str
    code: int | None = None
    signal: int | None = None
    stderr: str = ""


@dataclass(frozen=True, slots=True)
class GoBack(Effect):
    """Mark all entries from this one on as no longer in the session, which is now file `to`."""

    entry: int
    origin: str
    to: str
    at: datetime


@dataclass(frozen=True, slots=True)
class ClearRewind(Effect):
    """Drop the request to go back."""


# -- commands ----------------------------------------------------------------------------------


def withdrawal_text(count: int) -> str:
    """Return the notice about messages that an abort has withdrawn."""
    return f"The abort withdrew {count} queued message{'s' if count > 1 else ''}."


class Verb(StrEnum):
    """A command that every dialect can build; the values are the names of its methods."""

    QUERY_STATE = "query_state"
    QUERY_CONTEXT = "query_context"
    LIST_MODELS = "list_models"
    LIST_MESSAGES = "list_messages"
    FORK = "fork"
    ABORT = "abort"
    CLEAR_QUEUE = "clear_queue"
    DISMISS_DIALOG = "dismiss_dialog"


@dataclass(frozen=True, slots=True)
class Send(Effect):
    """Send a command to the agent. `id` is a dialog's for DISMISS_DIALOG, else the command's."""

    verb: Verb
    id: str
    # The agent's id of a message, for FORK.
    entry: str = ""
