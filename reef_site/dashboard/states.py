"""States of VMs on the pages, and their order from harmless to bad."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from lieutenants.states import Status as LieutenantStatus
from registry.models import Status

if TYPE_CHECKING:
    from lieutenants.models import Lieutenant
    from registry.models import VM

UNKNOWN = "unknown"
# From harmless to bad. The state of descendants is shown from `paused` on.
RANKS = {"paused": 1, "stopped": 2, "late": 3, "silent": 4, "error": 5}
WORDS = {rank: word for word, rank in RANKS.items()}


def state_of(vm: VM | None, lieutenant: Lieutenant | None, at: datetime, *, grace: bool) -> str:
    """Return error, silent, late, live, paused or stopped; unknown if it was never registered."""
    if lieutenant is not None and lieutenant.status == LieutenantStatus.ERROR:
        return "error"
    if vm is None:
        return UNKNOWN
    if vm.status != Status.RUNNING:
        return vm.status
    return str(vm.liveness(at, grace=grace))
