"""Failure modes of the platform: switches that stay as they are set, and one-time faults."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Switches:
    """Settings that can be changed at run time. Times are in seconds unless a name has a unit."""

    # VMs
    boot_delay_s: float = 0.0
    fail_boot_rate: float = 0.0
    fail_boots: int = 0
    quota_vcpus: int = 256
    quota_mib: int = 1 << 20
    state_write_enum: str = "paused"  # paused | sleeping | both
    delete_paused: bool = True
    disk_error_status: int = 500
    commit_fail: bool = False
    branch_shape: str = "vms"  # vms | vm_id
    branch_fail_after: int | None = None
    wipe_env: bool = True
    break_dns_after_restore: bool = False
    zero_unsynced_files: bool = False
    exec_cap_s: float | None = None
    hang_s: float = 30.0
    # responses
    auth_failure: str = "gateway403"  # gateway403 | 401
    public_without_key: bool = True
    strict_key_length: bool = False
    labels_in_vm: bool = True
    unknown_fields: bool = False
    latency_ms: int = 0
    list_gap: int = 0
    list_gap_vm: str | None = None
    requests_per_second: float | None = None
    retry_after_s: int = 1
    # the gateway
    ssh_delay_s: float = 0.0
    ssh_cut: bool = False

    def change(self, values: dict[str, Any]) -> None:
        """Set switches. Raises ValueError for an unknown name or a value of the wrong type."""
        known = {each.name: each for each in dataclasses.fields(self)}
        for name, value in values.items():
            if name not in known:
                raise ValueError(f"{name}: no such switch; there are {', '.join(known)}")
            kind = str(known[name].type)
            if not _fits(value, kind):
                raise ValueError(f"{name}: {value!r} is no {kind}")
        for name, value in values.items():
            setattr(self, name, value)


KINDS: dict[str, tuple[type, ...]] = {
    "float": (int, float),
    "int": (int,),
    "bool": (bool,),
    "str": (str,),
    "None": (type(None),),
}


def _fits(value: object, kind: str) -> bool:
    kinds = [each for word in kind.split(" | ") for each in KINDS[word]]
    if isinstance(value, bool) and bool not in kinds:
        return False
    return isinstance(value, tuple(kinds))


@dataclass
class Fault:
    """An effect that replaces the response of the next calls of an operation."""

    op: str
    status: int = 500
    done: bool = False
    times: int = 1
    skip: int = 0
    after_s: float = 0.0
    error: str = "http error: node did not answer"
    hits: int = 0

    def consume(self, op: str) -> bool:
        """Return whether this call is affected, and count it if so."""
        if self.op not in (op, "*") or self.times <= 0:
            return False
        if self.skip > 0:
            self.skip -= 1
            return False
        self.times -= 1
        self.hits += 1
        return True


@dataclass
class FaultInjector:
    """The switches and faults that are in effect."""

    switches: Switches = field(default_factory=Switches)
    faults: list[Fault] = field(default_factory=list)

    def take_fault(self, op: str) -> Fault | None:
        """Return the fault that affects this call, or None. The fault's counter goes down."""
        return next((fault for fault in self.faults if fault.consume(op)), None)

    def clear_faults(self) -> None:
        """Reset all switches and remove all faults."""
        self.switches = Switches()
        self.faults.clear()
