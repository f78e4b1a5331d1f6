"""State of a session: its knowledge of the agent, and the phase that follows from it.

`State` is immutable: `reducer.reduce` returns the next one. Its stored part is kept in
`Process.state`, so that another follower continues at the journal's committed offset; the rest
begins anew with each follower.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from enum import StrEnum
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from lieutenants.agents import events
from lieutenants.agents.base import Features
from lieutenants.states import A_MODEL, A_PERSON, A_QUOTA, A_TOOL, Outcome
from reef_site.common.text import clip, one_line

# An agent that reports when it has settled is queried only after this long without a report.
SETTLED_TIMEOUT = 20.0
# An agent that accepted a message begins its run at once; a command may begin none.
RUN_START_TIMEOUT = 1.0
# The tool that asks a person, and how much of a question is shown.
ASK_TOOL = "reef_ask"
MAX_QUESTION = 100


class Phase(StrEnum):
    """Phase of a process, from its start to its end."""

    # Its agent has not answered yet.
    STARTING = "starting"
    WORKING = "working"
    # A model call failed, and the agent waits before it tries again.
    RETRYING = "retrying"
    # The agent shortens its context.
    COMPACTING = "compacting"
    # The agent rests, and it is not known yet whether it has nothing left to do.
    SETTLING = "settling"
    # It has nothing left to do: skipped until something arrives.
    IDLE = "idle"
    ENDED = "ended"


_WAITS = {
    Phase.STARTING: "the agent's start",
    Phase.COMPACTING: "the context to be shortened",
    Phase.RETRYING: "the next try",
}
_NO_FEATURES = Features()
_RESTING = frozenset({Phase.SETTLING, Phase.IDLE})


@dataclass(frozen=True)
class StoredState:
    """State of the agent at the journal's offset. The names are the keys of `Process.state`."""

    running: bool = False
    retrying: bool = False
    compacting: int = 0
    # The agent reported that it has nothing left to do, and nothing has begun since.
    settled: bool = True
    # A state query confirmed it, with an empty queue.
    confirmed: bool = False
    # The last run has ended, as far as the agent reported.
    ran: bool = False
    stop_reason: str = ""
    failure: str = ""
    # Id of the message that was delivered and not yet accepted or rejected.
    inflight: str = ""
    # The agent had nothing to do when that message was delivered.
    was_settled: bool = False
    # How long to wait for a run to begin.
    patience: float = SETTLED_TIMEOUT
    # The pending command of a rewind, and the entry to go back to.
    rewinding: str = ""
    rewind_to: int = 0
    # Notices to show in the transcript when the agent is ready.
    notes: tuple[str, ...] = ()
    # Number of state queries.
    barrier: int = 0
    # Features of this version of the agent.
    clears_queue: bool = True
    settles: bool = False
    # The context has changed since its usage was stored; how often that was asked.
    context_changed: bool = False
    stats_asked: int = 0
    # Dialogs that a person is to answer: the ids of their requests, and their texts.
    dialogs: tuple[tuple[str, str], ...] = ()
    # When the agent tries again (seconds of Unix time), and whether its provider limits it.
    retry_at: float = 0.0
    limited: bool = False
    # Passed limits of which the transcript tells: ids of the entries of running tool calls, and
    # the silent wait, such as for the model, see `waiting_for`.
    noted_calls: tuple[int, ...] = ()
    noted_wait: str = ""


@dataclass(frozen=True)
class State(StoredState):
    """The stored state, and what only this follower knows. Times are on the follower's clock."""

    features: Features = _NO_FEATURES
    is_ready: bool = False
    is_ended: bool = False
    # Known to be idle with nothing pending.
    is_at_rest: bool = False
    last_record_at: float = 0.0
    # When the pending state query was sent; before when no other one is sent.
    state_queried_at: float | None = None
    next_query_at: float = 0.0
    settle_checked_at: float = 0.0
    # The agent reported that it is done, with accepted messages not begun.
    unconfirmed: bool = False
    # How often in a row it rested with messages in its queue.
    stuck_replies: int = 0
    # When the pending command of a rewind was sent.
    rewind_at: float | None = None
    # The reply about the context's usage has not come yet.
    asked_stats: bool = False
    # Text of the oldest open question that is not a dialog.
    question: str = ""

    @classmethod
    def load(cls, stored: Mapping[str, Any], **facts: Any) -> State:
        """Build from `Process.state`, with further fields; keys of older versions are ignored."""
        kept = {key: value for key, value in stored.items() if key in _STORED}
        kept["notes"] = tuple(kept.get("notes") or ())
        kept["dialogs"] = tuple(map(tuple, kept.get("dialogs") or ()))
        kept["noted_calls"] = tuple(kept.get("noted_calls") or ())
        return cls(**kept, **facts)

    def stored(self) -> dict[str, Any]:
        """Return the part for `Process.state`, as JSON."""
        values = dict(zip(_STORED, _read_stored(self), strict=True))
        values["notes"] = list(self.notes)
        values["dialogs"] = [list(each) for each in self.dialogs]
        values["noted_calls"] = list(self.noted_calls)
        return values

    @property
    def phase(self) -> Phase:
        """Return the phase. The first that applies counts: an agent may work and compact."""
        if self.is_ended:
            return Phase.ENDED
        if not self.is_ready:
            return Phase.STARTING
        if self.compacting:
            return Phase.COMPACTING
        if self.retrying:
            return Phase.RETRYING
        if self.running:
            return Phase.WORKING
        return Phase.IDLE if self.is_at_rest else Phase.SETTLING

    @property
    def is_busy(self) -> bool:
        """Return whether the agent works or will continue by itself, maybe before it is ready."""
        return self.running or self.retrying or self.compacting > 0

    @property
    def is_active(self) -> bool:
        """Return whether its agent may report something any moment."""
        return not self.is_at_rest and not self.dialogs

    @property
    def is_quiet(self) -> bool:
        """Return whether the agent rests and no message is on its way to it."""
        return not self.inflight and self.phase in _RESTING

    @property
    def accepts_message(self) -> bool:
        """Return whether the next message may be sent: one at a time, when the last one is done.

        Those behind it stay in reef's queue, where they can be changed, moved and withdrawn.
        """
        if not self._is_free or self.phase not in _RESTING:
            return False
        # An agent with a queue would put it there until the accepted message has begun.
        return self.settled or not self.features.queue

    @property
    def accepts_steering(self) -> bool:
        """Return whether a message may be sent into the running answer.

        None is sent into a retry or a compaction.
        """
        is_at_work = self.phase in (Phase.WORKING, Phase.SETTLING)
        return self._is_free and is_at_work and self.features.steering

    @property
    def _is_free(self) -> bool:
        """Return whether no message is on its way to the agent, and no rewind goes on."""
        return not self.inflight and not self.rewinding

    def idle_reason(self) -> str:
        """Return the reason for a transition to idle."""
        if self.stop_reason == events.ERROR:
            return f"its answer failed: {self.failure}"
        if self.stop_reason == events.ABORTED:
            return "its answer was aborted"
        return "the agent has nothing left to do"

    def outcome(self) -> Outcome:
        """Return how the run ended, from the agent's stop reason."""
        by_reason = {events.ABORTED: Outcome.ABORTED, events.ERROR: Outcome.ERROR}
        return by_reason.get(self.stop_reason, Outcome.COMPLETED)

    def waiting_for(self, tools: str = "") -> str:
        """Return what the lieutenant waits for, as text for people; `tools` are running calls."""
        phase = self.phase
        if phase is Phase.ENDED:
            return ""
        if question := self._awaited_question(tools):
            return f"{A_PERSON} to answer “{clip(one_line(question), MAX_QUESTION)}”"
        if tools and phase is not Phase.STARTING:
            return f"{A_TOOL}{tools}"
        if phase is Phase.RETRYING and self.limited:
            return f"{A_QUOTA} of its model"
        if phase in _WAITS:
            return _WAITS[phase]
        if self.inflight:
            return "the agent to accept a message"
        if self.rewinding:
            return "the agent to go back to before a message"
        return A_MODEL if phase is Phase.WORKING else ""

    @property
    def waiting_until(self) -> datetime | None:
        """Return when the agent tries again, while it waits for that."""
        if self.phase is not Phase.RETRYING or not self.retry_at:
            return None
        return datetime.fromtimestamp(self.retry_at, UTC)

    def _awaited_question(self, tools: str) -> str:
        """Return the text of the question that holds the agent up; empty if it can go on."""
        if self.dialogs:
            return self.dialogs[0][1] or "a dialog"
        return self.question if ASK_TOOL in tools or not self.is_busy else ""


_STORED = tuple(each.name for each in fields(StoredState))
_read_stored = attrgetter(*_STORED)


if TYPE_CHECKING:
    from dataclasses import replace as replace
else:

    def replace(state: State, **changes: Any) -> State:
        """Return a copy with changes.

        Each pass of the follower does this several times for each session, and
        `dataclasses.replace` takes ten times as long.
        """
        after = object.__new__(State)
        after.__dict__.update(state.__dict__)
        after.__dict__.update(changes)
        return after
