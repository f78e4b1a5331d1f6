"""The registry's table in snapshots: registered VMs and their last heartbeats."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from reef_site.common import clock
from registry.models import VM, Status
from vmtree.snapshots.tables import Column, Table

ALIVE = "it is registered, and neither silent nor stopped"

VMS = Table(
    name="vms",
    about="the registry: VMs that were registered at that moment",
    source="registry_vm",
    counted="registry_vm",
    order="id",
    title="registry",
    compared=(
        *("id", "name", "role", "status", "address", "parent_vm_id"),
        *("services", "reef_config", "metadata"),
    ),
    columns=(
        Column("id", "id", rule="PRIMARY KEY"),
        Column("name", "name", rule="NOT NULL"),
        Column("role", "role", rule="NOT NULL"),
        Column("status", "status", about="running, paused or stopped", rule="NOT NULL"),
        Column("address", "address", rule="NOT NULL"),
        Column("parent_vm_id", "parent_vm_id", about="may name a VM that is not registered"),
        Column("services", "services", "json", rule="NOT NULL"),
        Column("reef_config", "reef_config", "json", "DNA: organs and capabilities", "NOT NULL"),
        Column("metadata", "metadata", "json"),
        Column("has_metadata", "has_metadata", "flag", "0: nobody ever set it", "NOT NULL"),
        Column("registered_by", "registered_by", rule="NOT NULL"),
        Column("registered_at", "registered_at", "time", rule="NOT NULL"),
        Column("last_seen", "last_seen", "time", rule="NOT NULL"),
        Column("late_after", "late_after", "time", "null unless it runs"),
        Column("silent_after", "silent_after", "time", "null unless it runs"),
        Column("interval_ms", "interval_ms", "number", rule="NOT NULL"),
        Column("vitals", "vitals", "json", "load, disk and more, as its beats told", "NOT NULL"),
    ),
)


def alive_among(vm_ids: Sequence[str]) -> Iterable[str]:
    """Return those of the VMs that are paused, or running and not silent."""
    registered = VM.objects.filter(pk__in=vm_ids)
    silent = set(registered.silent(clock.now()).values_list("pk", flat=True))
    wanted = registered.exclude(status=Status.STOPPED).values_list("pk", flat=True)
    return [vm_id for vm_id in wanted if vm_id not in silent]
