"""Who lives now, whatever a snapshot says: those keep their place when an older tree is restored.

And who is gone for good: those are left out.

Apps above know it and say so with `add` when they are ready.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from reef_site.common.batches import batched

# Which of these VMs live.
Find = Callable[[Sequence[str]], Iterable[str]]
_witnesses: dict[str, Find] = {}
_gone: dict[str, Find] = {}


def add(why: str, find: Find) -> None:
    """Have these VMs kept, and say why; for `AppConfig.ready`. The first to name a VM is heard."""
    _witnesses[why] = find


def add_gone(why: str, find: Find) -> None:
    """Have these VMs left out, and say why; for `AppConfig.ready`."""
    _gone[why] = find


def among(vm_ids: Sequence[str]) -> dict[str, str]:
    """Those of them that live now, and why that is known."""
    return _ask(_witnesses, vm_ids)


def gone_among(vm_ids: Sequence[str]) -> dict[str, str]:
    """Those of them that are gone for good, and why that is known."""
    return _ask(_gone, vm_ids)


def _ask(witnesses: dict[str, Find], vm_ids: Sequence[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for some in batched(vm_ids):
        for why, find in witnesses.items():
            for vm_id in find(some):
                found.setdefault(vm_id, why)
    return found
