"""States of lieutenants and messages, and the allowed transitions."""

from __future__ import annotations

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
