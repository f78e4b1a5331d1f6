"""Evidence that a VM is dead, from independent sources. Destroying a VM needs two of them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from reef_site.common import clock
from registry import liveness
from registry.models import VM, Status, Watch
from registry.rules.models import Action, Firing, FiringState
from vmtree.operations import handlers

REQUIRED_SOURCES = 2


@dataclass(frozen=True)
class Evidence:
    """Statement of one source: `holds` if it says that the VM is dead."""

    source: str
    holds: bool
    text: str


def evidence_of_death(vm_id: str, now: datetime) -> list[Evidence]:
    """Return the statements of all sources about this VM."""
    vm = VM.objects.filter(pk=vm_id).first()
    return [silence(vm, now), status(vm), _handler(vm_id)]


def is_sufficient(evidence: list[Evidence]) -> bool:
    """Return whether the evidence is sufficient."""
    return sum(each.holds for each in evidence) >= REQUIRED_SOURCES


def silence(vm: VM | None, now: datetime) -> Evidence:
    """Check for missing heartbeats: overdue, although reef was there to receive them."""
    if vm is None:
        return Evidence("silence", holds=False, text="it is not registered, so no beat is expected")
    if Watch.grace(now):
        return Evidence("silence", holds=False, text="reef itself was away; beats may be its fault")
    if vm.status == Status.PAUSED:
        return Evidence("silence", holds=False, text="it is paused, so no beat is expected")
    _, silent_after = liveness.deadlines(vm.last_seen, vm.interval_ms)
    overdue = max(silent_after, vm.silent_after or silent_after) <= now
    return Evidence(
        "silence", holds=overdue, text=f"last sign {clock.format_timestamp(vm.last_seen)}"
    )


def status(vm: VM | None) -> Evidence:
    """Check the status: stopped by the VM itself or its provider, not by a rule.

    A status that reef derives from the VM's process is not independent evidence.
    """
    if vm is None or vm.status != Status.STOPPED:
        current = vm.status if vm else "not registered"
        return Evidence("status", holds=False, text=f"its status is {current}")
    if handlers.handler_for(vm.pk).sets_status:
        return Evidence("status", holds=False, text="reef itself set it when the agent ended")
    by_rule = Firing.objects.filter(
        subject=vm.pk,
        action=Action.MARK_STOPPED,
        state=FiringState.DONE,
        cause_at=vm.last_seen,
    )
    if by_rule.exists():
        return Evidence("status", holds=False, text="a rule marked it stopped, for its silence")
    return Evidence("status", holds=True, text="its status is stopped")


def _handler(vm_id: str) -> Evidence:
    """Ask the handler that runs the VM."""
    handler = handlers.handler_for(vm_id)
    text = handler.evidence_of_death(vm_id)
    unknown = f"{handler.name} does not know it to be gone"
    return Evidence("process", holds=text is not None, text=text or unknown)
