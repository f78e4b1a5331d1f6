"""Who knows how to pause, resume and destroy a VM: one interface, one handler for each kind.

Handlers are registered in `vm_handlers` and asked in turn, the newest first; the first one, the
registry's, takes all VMs that no other handler looks after.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from lieutenants.operations.models import Verb
from reef_site.common.batches import batched
from reef_site.common.errors import NotFound
from reef_site.common.hooks import Hook


@dataclass(frozen=True)
class Outlook:
    """What a verb would do to one VM; `left_out` says why nothing."""

    does: str
    left_out: str = ""


class Handler(ABC):
    """What the verbs mean for one kind of VM.

    Each verb may be asked twice, and does nothing when nothing is left to do. It raises a
    FleetError whose text says why it could not. It answers soon: what takes its time goes on
    behind it, and `is_done` tells when it has come to its end.
    """

    name: ClassVar[str]

    @abstractmethod
    def outlooks(self, verb: Verb, vm_ids: Sequence[str]) -> dict[str, Outlook]:
        """What the verb would do, for those of these VMs that this handler looks after."""

    @abstractmethod
    def pause(self, vm_id: str, actor: str) -> None:
        """Stop it in a way that `resume` brings it back as it was."""

    @abstractmethod
    def resume(self, vm_id: str, actor: str) -> None:
        """Let a paused one go on."""

    @abstractmethod
    def destroy(self, vm_id: str, actor: str) -> None:
        """End it for good. Registry and tree are seen to by the caller."""

    def is_done(self, verb: Verb, vm_id: str) -> bool:
        """Whether what was asked has come to its end. Raises a FleetError if it never will."""
        return True

    def proof_of_death(self, vm_id: str) -> str | None:
        """How this handler knows that what ran on this VM is gone; None if it does not."""
        return None

    def act(self, verb: Verb, vm_id: str, actor: str) -> None:
        """Do what the verb says."""
        {Verb.PAUSE: self.pause, Verb.RESUME: self.resume, Verb.DESTROY: self.destroy}[verb](
            vm_id, actor
        )


vm_handlers: Hook[Handler] = Hook(
    "operations.vm_handlers", "Pause, resume and destroy one kind of VM; the newest is asked first."
)


def handler_of(name: str) -> Handler:
    """The handler that a step names. Raises NotFound if it is not here any more."""
    if handler := vm_handlers.get(name):
        return handler
    raise NotFound(f"nobody here handles VMs of the kind {name!r}")


def outlooks(verb: Verb, vm_ids: Iterable[str]) -> dict[str, tuple[Handler, Outlook]]:
    """What the verb would do to each of these, and who would do it."""
    found: dict[str, tuple[Handler, Outlook]] = {}
    waiting = list(vm_ids)
    for handler in reversed(vm_handlers):
        for batch in batched(waiting):
            some = handler.outlooks(verb, batch)
            found |= {vm_id: (handler, outlook) for vm_id, outlook in some.items()}
        waiting = [vm_id for vm_id in waiting if vm_id not in found]
    return found


def looks_after(vm_id: str) -> Handler:
    """Whoever handles this VM."""
    return outlooks(Verb.DESTROY, [vm_id])[vm_id][0]
