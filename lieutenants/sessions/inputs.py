"""Inputs of the reducer besides the dialects' neutral events, and the facts that come with them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from lieutenants.states import MessageState, RestartPolicy


class Facts(NamedTuple):
    """The time of an input, and what rows held then. `facts.py` reads what each input needs."""

    at: datetime
    # The process was asked to stop.
    stop_asked: bool = False
    # The message in flight was taken up by the agent.
    is_taken_up: bool = False
    # States of the messages that the agent has not begun.
    pending: frozenset[MessageState] = frozenset()

    # At the start: the model that the agent was to have, the one of its previous process, and
    # whether the agent's model is the wanted one, or its change is in its own warning.
    wanted_model: str = ""
    previous_model: str = ""
    has_wanted_model: bool = True
    is_change_announced: bool = False
    # Notes of the start that are only for information.
    infos: frozenset[str] = frozenset()
    # The model in use according to the row.
    model_in_use: str = ""

    # At the end: whether the process was up for long, and the columns of its lieutenant.
    was_healthy: bool = False
    restarts: int = 0
    restart_policy: RestartPolicy = RestartPolicy.NEVER
    is_destroyed: bool = False
    rewind_requested: bool = False
    # Wall-clock time; `at` may be the time of a journal record.
    now: datetime | None = None

    # During a rewind: the agent's id of the message, if it has it; whether another message was
    # sent meanwhile; the name of the session file so far.
    rewind_target: str | None = None
    was_sent_since: bool = False
    session_name: str = ""

    # With a dialog: how long it may wait for a person (0: not at all), and whether the process has
    # had one with the same id.
    dialog_limit_seconds: int = 0
    is_known_dialog: bool = False


# -- the keeper's notes ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Delivered:
    """The keeper passed a queued message on to the agent."""

    message: str


@dataclass(frozen=True, slots=True)
class DialogReplied:
    """The keeper passed the reply to this dialog on to the agent."""

    request_id: str


@dataclass(frozen=True, slots=True)
class Garbage:
    """The agent printed a line that is not of its protocol."""

    text: str


@dataclass(frozen=True, slots=True)
class LongLine:
    """The agent printed a line that was too long for the journal."""

    size: str


@dataclass(frozen=True, slots=True)
class Omitted:
    """The keeper omitted records of a flood."""

    cause: str
    count: int
    size: int


@dataclass(frozen=True, slots=True)
class FloodOver:
    """A flood is over."""

    cause: str


@dataclass(frozen=True, slots=True)
class OutputLost:
    """A part of the journal is missing."""

    size: int


@dataclass(frozen=True, slots=True)
class Warned:
    """The agent printed a warning to stderr."""

    text: str


# -- ends --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ProcessEnded:
    """The keeper recorded the end of the agent."""

    code: int | None = None
    signal: int | None = None
    stderr: str = ""
    # The keeper could not start or run the agent.
    error: str = ""
    stopped: bool = False
    killed_for_memory: bool = False


@dataclass(frozen=True, slots=True)
class ProcessLost:
    """The process is gone together with its keeper, and there is no record of its end."""

    # It was gone when this follower first checked.
    while_away: bool = False


@dataclass(frozen=True, slots=True)
class ProcessUnreachable:
    """The process is on a host that does not answer, and is given up."""

    reason: str


@dataclass(frozen=True, slots=True)
class ProcessUseless:
    """The process does not work and must end; the restart policy may start another one."""

    reason: str


# -- time and requests -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RecordsRead:
    """New records were read. False: they only confirm commands of the follower."""

    clock: float
    is_sign_of_life: bool = True


@dataclass(frozen=True, slots=True)
class SettleCheck:
    """It is time to check whether the agent has settled."""

    clock: float


@dataclass(frozen=True, slots=True)
class WorkSeen:
    """There may be something to do: a message is queued, or the row says that it is working."""


@dataclass(frozen=True, slots=True)
class QuestionSeen:
    """The agent's oldest open question that is not a dialog has this text; empty: none is open."""

    text: str


@dataclass(frozen=True, slots=True)
class AbortAsked:
    """A person or a program wants the answer to be aborted. `mark` makes command ids unique.

    `withdrawn` is the number of messages that were withdrawn from reef's queue.
    """

    mark: str
    withdrawn: int = 0


@dataclass(frozen=True, slots=True)
class Stalled:
    """The answer reached a time limit and is aborted; `text` says which."""

    mark: str
    text: str


@dataclass(frozen=True, slots=True)
class LimitPassed:
    """The answer reached a time limit and goes on; `text` says which.

    `calls` are the entries of all running calls that were noted, `wait` is the silent wait.
    """

    text: str
    calls: tuple[int, ...] = ()
    wait: str = ""


@dataclass(frozen=True, slots=True)
class RewindCheck:
    """A rewind is requested, with the entry to go back to, or in progress."""

    clock: float
    mark: str
    entry: int | None = None


@dataclass(frozen=True, slots=True)
class OmissionsDue:
    """It is time to report omitted rows."""


@dataclass(frozen=True, slots=True)
class TroubleFound:
    """The keeper does not respond; `text` says since when."""

    text: str


@dataclass(frozen=True, slots=True)
class TroubleOver:
    """The keeper responds again. `hidden` is the trouble shown before, None if that is unknown."""

    hidden: str | None = None


Request = (
    Delivered
    | DialogReplied
    | Garbage
    | LongLine
    | Omitted
    | FloodOver
    | OutputLost
    | Warned
    | ProcessEnded
    | ProcessLost
    | ProcessUnreachable
    | ProcessUseless
    | RecordsRead
    | SettleCheck
    | WorkSeen
    | QuestionSeen
    | AbortAsked
    | Stalled
    | LimitPassed
    | RewindCheck
    | OmissionsDue
    | TroubleFound
    | TroubleOver
)
