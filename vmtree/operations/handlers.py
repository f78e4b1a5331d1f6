"""Handlers of VMs: one interface for pause, resume and destroy, one handler for each kind of VM.

A new kind registers in `vm_handlers`. Handlers are queried newest first: those of higher apps come
before those of lower ones, and the registry's, which takes every VM that is left, comes last.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from reef_site.common.batches import batched
from reef_site.common.errors import NotFound
from reef_site.common.hooks import Hook
from vmtree.operations.models import Operation


@dataclass(frozen=True)
class Effect:
    """Effect of an operation on one VM; `left_out` is the reason if the VM is skipped."""

    does: str
    left_out: str = ""


class Handler(ABC):
    """Implements the operations for one kind of VM.

    Each operation is idempotent, returns soon and raises a ReefError that says why it failed. Slow
    work goes on in the background until `is_done` returns True.
    """

    name: ClassVar[str]
    # Whether reef sets the status of such a VM when its process ends.
    sets_status: ClassVar[bool] = False

    @abstractmethod
    def effects(self, verb: Operation, vm_ids: Sequence[str]) -> dict[str, Effect]:
        """Return the effect on each of these VMs that this handler is responsible for."""

    @abstractmethod
    def pause(self, vm_id: str, actor: str) -> None:
        """Stop the VM so that `resume` restores its state."""

    @abstractmethod
    def resume(self, vm_id: str, actor: str) -> None:
        """Continue a paused VM."""

    @abstractmethod
    def destroy(self, vm_id: str, actor: str) -> None:
        """Destroy what runs on the VM. The caller removes it from the registry and the tree."""

    def is_done(self, verb: Operation, vm_id: str) -> bool:
        """Return whether the operation has finished. Raises a ReefError if it never will."""
        return True

    def evidence_of_death(self, vm_id: str) -> str | None:
        """Return how this handler knows that the VM has stopped for good; None if unknown."""
        return None

    def act(self, verb: Operation, vm_id: str, actor: str) -> None:
        """Run the method of this operation."""
        {
            Operation.PAUSE: self.pause,
            Operation.RESUME: self.resume,
            Operation.DESTROY: self.destroy,
        }[verb](vm_id, actor)


vm_handlers: Hook[Handler] = Hook(
    "operations.vm_handlers",
    "Pause, resume and destroy one kind of VM; the newest is queried first.",
)


def get_handler(name: str) -> Handler:
    """Return the handler of this name. Raises NotFound if it is not registered."""
    if handler := vm_handlers.get(name):
        return handler
    raise NotFound(f"nobody here handles VMs of the kind {name!r}")


def effects(verb: Operation, vm_ids: Iterable[str]) -> dict[str, tuple[Handler, Effect]]:
    """Return the effect of an operation on each VM, with the responsible handler."""
    found: dict[str, tuple[Handler, Effect]] = {}
    waiting = list(vm_ids)
    for handler in reversed(vm_handlers):
        for batch in batched(waiting):
            some = handler.effects(verb, batch)
            found |= {vm_id: (handler, effect) for vm_id, effect in some.items()}
        waiting = [vm_id for vm_id in waiting if vm_id not in found]
    return found


def handler_for(vm_id: str) -> Handler:
    """Return the handler that is responsible for this VM."""
    return effects(Operation.DESTROY, [vm_id])[vm_id][0]
