"""Hooks of restoring: VMs that are alive now, and VMs that are destroyed.

Restoring an older tree keeps alive VMs and omits destroyed ones. Higher apps register their lookups
in `AppConfig.ready`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from reef_site.common.batches import batched
from reef_site.common.hooks import Hook

# Takes a batch of VM ids.
Find = Callable[[Sequence[str]], Iterable[str]]
active_vms: Hook[Find] = Hook(
    "snapshots.active_vms",
    "Return the VMs among these that a restored tree keeps; the hook's key is the reason.",
)
destroyed_vms: Hook[Find] = Hook(
    "snapshots.destroyed_vms",
    "Return the VMs among these that a restored tree leaves out; the hook's key is the reason.",
)


def among(vm_ids: Sequence[str]) -> dict[str, str]:
    """Map those of the VM ids that are alive now to the reason."""
    return _ask(active_vms, vm_ids)


def gone_among(vm_ids: Sequence[str]) -> dict[str, str]:
    """Map those of the VM ids that are destroyed to the reason."""
    return _ask(destroyed_vms, vm_ids)


def _ask(witnesses: Hook[Find], vm_ids: Sequence[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for some in batched(vm_ids):
        for why, find in witnesses.items():
            for vm_id in find(some):
                found.setdefault(vm_id, why)
    return found
