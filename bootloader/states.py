"""States of provisionings, steps, findings and commands. Imports no model."""

from __future__ import annotations

from django.db.models import TextChoices


class State(TextChoices):
    """The state of a provisioning."""

    QUEUED = "queued", "queued"
    RUNNING = "running", "running"
    DONE = "done", "done"
    FAILED = "failed", "failed"
    CANCELLING = "cancelling", "cancelling"
    CANCELLED = "cancelled", "cancelled"


MOVES: dict[State, frozenset[State]] = {
    State.QUEUED: frozenset({State.RUNNING, State.CANCELLING}),
    State.RUNNING: frozenset({State.DONE, State.FAILED, State.CANCELLING}),
    # A retry starts at the failed step.
    State.FAILED: frozenset({State.QUEUED, State.CANCELLING}),
    # Back to FAILED when the VM could not be deleted, so that it stays visible.
    State.CANCELLING: frozenset({State.CANCELLED, State.FAILED}),
    State.DONE: frozenset(),
    State.CANCELLED: frozenset(),
}

ACTIVE_STATES = (State.RUNNING, State.CANCELLING)
OPEN_STATES = (State.QUEUED, *ACTIVE_STATES)


class StepName(TextChoices):
    """The steps, in the order in which they run."""

    RESOLVE = "resolve", "resolve config"
    CREATE = "create", "create the VM"
    SSH = "ssh", "wait for SSH"
    IDENTITY = "identity", "identity"
    UPLOAD = "upload", "upload"
    RUN = "run", "run the boot script"
    JOIN = "join", "join"
    HEALTH = "health", "health"


# A VM that is restored without a profile is only brought up: it neither runs a script nor joins.
STEPS_WITHOUT_PROFILE = (StepName.RESOLVE, StepName.CREATE, StepName.SSH, StepName.IDENTITY)


class StepState(TextChoices):
    """The state of a step."""

    WAITING = "waiting", "waiting"
    RUNNING = "running", "running"
    DONE = "done", "done"
    FAILED = "failed", "failed"
    # The provisioning was cancelled before this step ended.
    CANCELLED = "cancelled", "cancelled"


STEP_MOVES: dict[StepState, frozenset[StepState]] = {
    StepState.WAITING: frozenset({StepState.RUNNING, StepState.CANCELLED}),
    StepState.RUNNING: frozenset({StepState.DONE, StepState.FAILED, StepState.CANCELLED}),
    # A retry repeats it, and the earlier steps that it depends on.
    StepState.FAILED: frozenset({StepState.WAITING}),
    StepState.DONE: frozenset({StepState.WAITING}),
    StepState.CANCELLED: frozenset(),
}

# The step from which a retry starts, if not from the failed one: the join token may be used or
# expired by now, so the script is uploaded again.
RETRY_FROM: dict[StepName, StepName] = {
    StepName.RUN: StepName.UPLOAD,
    StepName.JOIN: StepName.UPLOAD,
    StepName.HEALTH: StepName.UPLOAD,
}


class CleanupPolicy(TextChoices):
    """The cleanup policy for the VM of a provisioning that failed or was cancelled."""

    KEEP = "keep", "keep the VM"
    DELETE = "delete", "delete the VM"


class FindingKind(TextChoices):
    """The kinds of differences between provider, tree and registry."""

    UNKNOWN = "unknown", "unknown VM"
    VANISHED = "vanished", "vanished VM"
    USELESS = "useless", "VM that serves nothing"
    TWIN = "twin", "two machines with one identity"


class FindingState(TextChoices):
    """The decision about a finding."""

    OPEN = "open", "open"
    # The difference disappeared by itself.
    SETTLED = "settled", "settled itself"
    DONE = "done", "done"
    DISMISSED = "dismissed", "dismissed"


class Proposal(TextChoices):
    """An action proposed for a finding. Carried out only by an operator or a rule."""

    ADOPT = "adopt", "take it into the tree"
    DELETE = "delete", "delete the VM"
    BURY = "bury", "remove it from tree and registry"
    PAUSE = "pause", "pause the VM"
    REVOKE = "revoke", "revoke the VM's token"


class CommandState(TextChoices):
    """The state of a command that a person runs on a machine."""

    WAITING = "waiting", "waiting"
    RUNNING = "running", "running"
    # It ended by itself, whatever its exit status is.
    DONE = "done", "ended"
    TIMED_OUT = "timed-out", "timed out"
    CANCELLED = "cancelled", "cancelled"
    # It could not be started, or nobody knows how it ended.
    FAILED = "failed", "failed"


COMMAND_MOVES: dict[CommandState, frozenset[CommandState]] = {
    CommandState.WAITING: frozenset(
        {CommandState.RUNNING, CommandState.CANCELLED, CommandState.FAILED}
    ),
    CommandState.RUNNING: frozenset(
        {
            CommandState.DONE,
            CommandState.TIMED_OUT,
            CommandState.CANCELLED,
            CommandState.FAILED,
        }
    ),
    CommandState.DONE: frozenset(),
    CommandState.TIMED_OUT: frozenset(),
    CommandState.CANCELLED: frozenset(),
    CommandState.FAILED: frozenset(),
}
OPEN_COMMAND_STATES = (CommandState.WAITING, CommandState.RUNNING)
