"""States of lieutenants and messages, and the allowed transitions."""

from __future__ import annotations

from enum import StrEnum

from django.db.models import TextChoices


class Status(TextChoices):
    """State of a lieutenant. The values are those of the HTTP API."""

    STARTING = "starting", "starting"
    IDLE = "idle", "idle"
    WORKING = "working", "working"
    PAUSED = "paused", "paused"
    ERROR = "error", "error"
    DESTROYED = "destroyed", "destroyed"


class MessageState(TextChoices):
    """State of a message on its way to the agent."""

    QUEUED = "queued", "queued"
    DELIVERED = "delivered", "delivered"
    ACCEPTED = "accepted", "accepted"
    REJECTED = "rejected", "rejected"


class Mode(TextChoices):
    """Delivery mode of a message while the agent works."""

    PROMPT = "prompt", "prompt"
    STEER = "steer", "steer"
    FOLLOW_UP = "followUp", "follow-up"


class Outcome(TextChoices):
    """Outcome of an answer, in the agent's own terms if it reported one."""

    OPEN = "open", "open"
    COMPLETED = "completed", "completed"
    ABORTED = "aborted", "aborted"
    ERROR = "error", "error"
    INTERRUPTED = "interrupted", "interrupted"


class RestartPolicy(TextChoices):
    """Policy for restarts of a crashed agent."""

    NEVER = "never", "never"
    ON_FAILURE = "on-failure", "on failure"


MAX_RESTARTS = 5
# After a stop request the agent is ended without its keeper's help at first; the keeper, which may
# be busy with its last records for a minute, is ended later.
END_AGENT_SECONDS, END_KEEPER_SECONDS = 25.0, 85.0
# Beginnings of `waiting_for`: while a question is open, while a tool runs, while the agent waits
# because its model's provider limits it.
A_PERSON, A_TOOL, A_QUOTA = "a person", "tool ", "the quota or rate limit"
A_MODEL = "the model"
# While its text arrives.
A_WRITING_MODEL = f"{A_MODEL} to finish its answer"


class WaitKind(StrEnum):
    """The thing that a lieutenant waits for. The values are those of the HTTP API."""

    MODEL = "model"
    TOOL = "tool"
    PERSON = "person"
    QUOTA = "quota"
    OTHER = "other"

    @classmethod
    def of(cls, waiting_for: str) -> WaitKind | None:
        """Return the kind of what `waiting_for` says; None if it waits for nothing."""
        if not waiting_for:
            return None
        kinds = {A_PERSON: cls.PERSON, A_TOOL: cls.TOOL, A_QUOTA: cls.QUOTA}
        found = (kind for words, kind in kinds.items() if waiting_for.startswith(words))
        return next(found, cls.MODEL if waiting_for in (A_MODEL, A_WRITING_MODEL) else cls.OTHER)


class LimitAction(TextChoices):
    """The action when a model or a tool reaches its limit."""

    ABORT = "abort", "note it, then abort the answer"
    NOTE = "note", "only note it"


_GOES_ON = {Status.PAUSED, Status.ERROR, Status.DESTROYED}

MOVES: dict[Status, frozenset[Status]] = {
    Status.STARTING: frozenset({Status.IDLE, Status.WORKING, *_GOES_ON}),
    Status.IDLE: frozenset({Status.WORKING, Status.STARTING, *_GOES_ON}),
    Status.WORKING: frozenset({Status.IDLE, Status.STARTING, *_GOES_ON}),
    Status.PAUSED: frozenset({Status.STARTING, Status.DESTROYED}),
    Status.ERROR: frozenset({Status.STARTING, Status.PAUSED, Status.DESTROYED}),
    Status.DESTROYED: frozenset(),
}

# A lieutenant in one of these should have a running agent.
RUNNING = frozenset({Status.STARTING, Status.IDLE, Status.WORKING})

MESSAGE_MOVES: dict[MessageState, frozenset[MessageState]] = {
    # To rejected: withdrawn, or its lieutenant was destroyed.
    MessageState.QUEUED: frozenset({MessageState.DELIVERED, MessageState.REJECTED}),
    # Back to queued: the agent ended before it began the message.
    MessageState.DELIVERED: frozenset(
        {MessageState.ACCEPTED, MessageState.REJECTED, MessageState.QUEUED}
    ),
    MessageState.ACCEPTED: frozenset({MessageState.QUEUED, MessageState.REJECTED}),
    MessageState.REJECTED: frozenset(),
}
