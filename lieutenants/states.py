"""The words of a lieutenant's and a message's life, and the arrows between them."""

from __future__ import annotations

from django.db.models import TextChoices


class Status(TextChoices):
    """What a lieutenant is doing. The words are those of the HTTP API."""

    STARTING = "starting", "starting"
    IDLE = "idle", "idle"
    WORKING = "working", "working"
    PAUSED = "paused", "paused"
    ERROR = "error", "error"
    DESTROYED = "destroyed", "destroyed"


class MessageState(TextChoices):
    """How far a message has come on its way to the agent."""

    QUEUED = "queued", "queued"
    DELIVERED = "delivered", "delivered"
    ACCEPTED = "accepted", "accepted"
    REJECTED = "rejected", "rejected"


class Mode(TextChoices):
    """How a message meets the work that is going on."""

    PROMPT = "prompt", "prompt"
    STEER = "steer", "steer"
    FOLLOW_UP = "followUp", "follow-up"


class Outcome(TextChoices):
    """How an answer ended, in the agent's own words where it had any."""

    OPEN = "open", "open"
    COMPLETED = "completed", "completed"
    ABORTED = "aborted", "aborted"
    ERROR = "error", "error"
    INTERRUPTED = "interrupted", "interrupted"


class RestartPolicy(TextChoices):
    """Whether reef starts an agent again that died by itself."""

    NEVER = "never", "never"
    ON_FAILURE = "on-failure", "on failure"


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
    # Rejected without delivery: withdrawn, or its lieutenant was destroyed.
    MessageState.QUEUED: frozenset({MessageState.DELIVERED, MessageState.REJECTED}),
    # Back to queued: the agent ended before it took the message up.
    MessageState.DELIVERED: frozenset(
        {MessageState.ACCEPTED, MessageState.REJECTED, MessageState.QUEUED}
    ),
    MessageState.ACCEPTED: frozenset({MessageState.QUEUED, MessageState.REJECTED}),
    MessageState.REJECTED: frozenset(),
}
