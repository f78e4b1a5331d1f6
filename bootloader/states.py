"""The words of a provisioning's state machines and their arrows; imports no model."""

from __future__ import annotations

from django.db.models import TextChoices


class State(TextChoices):
    """How far a provisioning has come."""

    QUEUED = "queued", "queued"
    RUNNING = "running", "running"
    DONE = "done", "done"
    FAILED = "failed", "failed"
    CANCELLING = "cancelling", "cancelling"
    CANCELLED = "cancelled", "cancelled"


MOVES: dict[State, frozenset[State]] = {
    State.QUEUED: frozenset({State.RUNNING, State.CANCELLING}),
    State.RUNNING: frozenset({State.DONE, State.FAILED, State.CANCELLING}),
    # A retry begins at the step that failed.
    State.FAILED: frozenset({State.QUEUED, State.CANCELLING}),
    # Back to FAILED when its VM could not be deleted: nothing is forgotten.
    State.CANCELLING: frozenset({State.CANCELLED, State.FAILED}),
    State.DONE: frozenset(),
    State.CANCELLED: frozenset(),
}

AT_WORK = (State.RUNNING, State.CANCELLING)
OPEN = (State.QUEUED, *AT_WORK)


class StepName(TextChoices):
    """The steps, in their order."""

    RESOLVE = "resolve", "resolve config"
    CREATE = "create", "create the VM"
    SSH = "ssh", "wait for SSH"
    IDENTITY = "identity", "identity"
    UPLOAD = "upload", "upload"
    RUN = "run", "run the boot script"
    JOIN = "join", "join"
    HEALTH = "health", "health"


class StepState(TextChoices):
    """How far a step has come."""

    WAITING = "waiting", "waiting"
    RUNNING = "running", "running"
    DONE = "done", "done"
    FAILED = "failed", "failed"
    # Nothing more is to come of it, since its provisioning was cancelled.
    CANCELLED = "cancelled", "cancelled"


STEP_MOVES: dict[StepState, frozenset[StepState]] = {
    StepState.WAITING: frozenset({StepState.RUNNING, StepState.CANCELLED}),
    StepState.RUNNING: frozenset({StepState.DONE, StepState.FAILED, StepState.CANCELLED}),
    # A retry does it again, with those before it that it needs anew.
    StepState.FAILED: frozenset({StepState.WAITING}),
    StepState.DONE: frozenset({StepState.WAITING}),
    StepState.CANCELLED: frozenset(),
}

# What a retry does again beside the step that failed: a join token may have been used or be too
# old by now, so the script is written anew.
NEEDS_ANEW: dict[StepName, StepName] = {
    StepName.RUN: StepName.UPLOAD,
    StepName.JOIN: StepName.UPLOAD,
    StepName.HEALTH: StepName.UPLOAD,
}


class Leftover(TextChoices):
    """What becomes of a VM whose provisioning came to no good end."""

    KEEP = "keep", "keep the VM"
    DELETE = "delete", "delete the VM"


class FindingKind(TextChoices):
    """What provider, tree and registry say differently."""

    UNKNOWN = "unknown", "unknown VM"
    VANISHED = "vanished", "vanished VM"
    USELESS = "useless", "VM that serves nothing"
    TWIN = "twin", "two machines with one identity"


class FindingState(TextChoices):
    """What was decided about a finding."""

    OPEN = "open", "open"
    # It is not so any more, without anybody's doing.
    SETTLED = "settled", "settled itself"
    DONE = "done", "done"
    DISMISSED = "dismissed", "dismissed"


class Proposal(TextChoices):
    """What reef proposes to do about a finding; done only when an operator or a rule says so."""

    ADOPT = "adopt", "take it into the tree"
    DELETE = "delete", "delete the VM"
    BURY = "bury", "remove it from tree and registry"
    PAUSE = "pause", "pause the VM"
    REVOKE = "revoke", "revoke the VM's token"
