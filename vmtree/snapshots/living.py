"""Who lives now, whatever a snapshot says: those keep their place when an older tree is restored.

Apps above know it and say so with `add` when they are ready.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

# Which of these VMs live.
Find = Callable[[Sequence[str]], Iterable[str]]
_AT_ONCE = 500
_witnesses: dict[str, Find] = {}


def add(why: str, find: Find) -> None:
    """Have these VMs kept, and say why; for `AppConfig.ready`. The first to name a VM is heard."""
    _witnesses[why] = find


def among(vm_ids: Sequence[str]) -> dict[str, str]:
    """Those of them that live now, and why that is known."""
    found: dict[str, str] = {}
    for start in range(0, len(vm_ids), _AT_ONCE):
        some = vm_ids[start : start + _AT_ONCE]
        for why, find in _witnesses.items():
            for vm_id in find(some):
                found.setdefault(vm_id, why)
    return found
