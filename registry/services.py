"""Use cases of the registry. Rows are committed first, events are published afterwards."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.db import IntegrityError, transaction
from django.db.models import Q, QuerySet

from reef_site.common import clock, database_locks, events
from reef_site.common.database_locks import DatabaseLock
from reef_site.common.errors import BadInput, NotFound
from reef_site.common.eventlog import recording
from reef_site.common.eventlog.recording import NewEvent
from reef_site.common.text import to_storable
from registry import heartbeats as beats
from registry import liveness, placement, queries
from registry.heartbeat_bodies import Heartbeat
from registry.models import LINKS, VM, Gap, Status, VMQuerySet, Watch
from vmtree import dna, lineage, permissions
from vmtree import names as vm_names
from vmtree.models import Node
from vmtree.queries import nodes as node_queries

VM_NOT_FOUND = "VM not found"
BOTH_NOT_FOUND = "One or both VMs not found"
GAP_RETENTION = timedelta(days=7)
_CLAMP_SECONDS = 10


@dataclass(frozen=True)
class Registration:
    """A registration. Fields that are None were absent; an update keeps their old values."""

    id: str
    name: str
    role: str
    address: str
    registered_by: str
    parent_vm_id: str | None = None
    # `parentVmId: null` removes the parent; absent or empty keeps it.
    clears_parent: bool = False
    services: list[Any] | None = None
    reef_config: dict[str, Any] | None = None
    metadata: Any = None


def find(vm_id: str) -> VM:
    """Return the registered VM with this id. Raises NotFound."""
    vm = VM.objects.filter(pk=to_storable(vm_id)).first()
    if vm is None:
        raise NotFound(VM_NOT_FOUND)
    return vm


# -- registering -------------------------------------------------------------------------------


def register(registration: Registration, *, caller: object = None) -> VM:
    """Register a VM or update its registration; it counts as running and seen now.

    It is placed in the tree if its parent is there. Raises BadInput for a circle of parents,
    Forbidden.
    """
    check_may_register(caller, registration.id, registration.parent_vm_id)
    if registration.clears_parent and not permissions.may(caller, "write", None):
        # A node token cannot detach a VM from its parent; null is ignored.
        registration = dataclasses.replace(registration, clears_parent=False)
    try:
        with transaction.atomic():
            vm = _register(registration, caller)
    except IntegrityError:
        # Another request registered it between our SELECT and INSERT.
        with transaction.atomic():
            vm = _register(registration, caller)
    events.publish_nodes([vm.pk])
    return vm


def check_may_register(caller: object, vm_id: str, parent_vm_id: str | None) -> None:
    """Raise Forbidden unless a node registers itself or a present or future descendant."""
    if permissions.is_operator(caller):
        return
    known = Node.objects.filter(vm_id=vm_id).exists()
    permissions.check(caller, "write", vm_id if known or not parent_vm_id else parent_vm_id)
    if parent_vm_id and known:
        _check_may_move(caller, vm_id, parent_vm_id)


def _check_may_move(caller: object, vm_id: str, parent_vm_id: str | None) -> None:
    """Raise Forbidden if a node moves itself, or moves another VM outside of its subtree."""
    there = Node.objects.filter(vm_id=vm_id, parent__vm_id=parent_vm_id).exists()
    if not there:
        permissions.check(caller, "command", vm_id)
        permissions.check(caller, "write", parent_vm_id)


def _register(registration: Registration, caller: object) -> VM:
    parent = registration.parent_vm_id
    if parent is None and not registration.clears_parent:
        parent = (
            VM.objects.filter(pk=registration.id).values_list("parent_vm_id", flat=True).first()
        )
    places = placement.can_place(registration.id, parent)
    if places:
        # Before any row lock: removal takes both in this order, too.
        database_locks.lock(DatabaseLock.TREE_STRUCTURE, shared=True)
    by = caller or "its registration"
    vm = _upsert(registration, by)
    if places:
        placement.place_automatically(vm, by=by)
    return vm


def _upsert(registration: Registration, by: object) -> VM:
    now, interval = clock.now(), beats.fleet.interval_ms()
    old = VM.objects.select_for_update().filter(pk=registration.id).first()
    vm = old or VM(id=registration.id, registered_at=now, last_seen=now)
    if old is None:
        vm_names.check(vm.pk, "id")
    if vm.name != registration.name:
        vm_names.check(registration.name)
    assign(vm, registration, now, interval)
    parent = vm.parent_vm_id if registration.parent_vm_id is None else registration.parent_vm_id
    _set_parent(vm, None if registration.clears_parent else parent)
    # Saves all columns: the row is locked, or new.
    vm.save(force_insert=old is None, force_update=old is not None)
    if old is None:
        recording.record_many([registered_event(vm)], actor=by)
    return vm


def assign(vm: VM, registration: Registration, now: datetime, interval: int) -> None:
    """Set all fields but the parent; it counts as running and seen now."""
    vm.name, vm.role, vm.address = registration.name, registration.role, registration.address
    vm.registered_by, vm.interval_ms = registration.registered_by, interval
    if registration.services is not None:
        vm.services = registration.services
    if registration.reef_config is not None:
        vm.reef_config = registration.reef_config
        vm.vitals.pop("reefConfigDigest", None)
    if registration.metadata is not None:
        vm.metadata, vm.has_metadata = registration.metadata, True
    vm.seen(now)


def registered_event(vm: VM) -> NewEvent:
    """Return the event that a VM was registered for the first time."""
    return NewEvent("vm.registered", vm.pk, {"name": vm.name, "role": vm.role})


def _set_parent(vm: VM, parent: str | None) -> None:
    """Assign a parent; it need not be registered. Raises BadInput for a circle."""
    if parent == vm.parent_vm_id:
        return
    if parent == vm.pk:
        raise BadInput("parentVmId: a VM cannot be its own parent", "parentVmId")
    if parent is not None:
        database_locks.lock(DatabaseLock.REGISTRY_PARENTS)
        # An unregistered parent may later become a child: no circle then either.
        if vm.pk in lineage.ancestor_keys(LINKS, parent) or _would_close_circle(parent, vm.pk):
            text = f"parentVmId: '{parent}' stands below '{vm.pk}', which cannot stand below it"
            raise BadInput(text, "parentVmId")
    vm.parent_vm_id = parent


def _would_close_circle(parent: str, vm_id: str) -> bool:
    """Return whether the topmost known ancestor of `parent` names `vm_id` as its parent.

    `vm_id` is not registered yet.
    """
    ancestors = lineage.ancestor_keys(LINKS, parent)
    return bool(ancestors) and VM.objects.filter(pk=ancestors[0], parent_vm_id=vm_id).exists()


def patch(vm_id: str, changes: dict[str, Any], *, caller: object = None) -> VM:
    """Set these columns; counts as a heartbeat. Raises NotFound, BadInput, Forbidden."""
    with transaction.atomic():
        vm = VM.objects.select_for_update().filter(pk=to_storable(vm_id)).first()
        if vm is None:
            raise NotFound(VM_NOT_FOUND)
        permissions.check(caller, "write", vm.pk)
        fields = dict(changes)
        if "parent_vm_id" in fields:
            parent = fields.pop("parent_vm_id")
            if parent != vm.parent_vm_id:
                _check_may_move(caller, vm.pk, parent)
            _set_parent(vm, parent)
        before = vm.status
        names = assign_changes(vm, fields, clock.now())
        if vm.status != before:
            recording.record_many([status_event(vm.pk, vm.status)], actor=caller or "reef")
        vm.save(update_fields=[*names, "parent_vm_id"])
        events.publish_nodes([vm.pk])
    return vm


def assign_changes(vm: VM, changes: Mapping[str, Any], now: datetime) -> list[str]:
    """Set these columns but the parent; it counts as seen now. Return all columns to be saved.

    Raises BadInput for a new name with invisible characters.
    """
    fields = dict(changes)
    status = fields.pop("status", vm.status)
    if fields.get("name", vm.name) != vm.name:
        vm_names.check(fields["name"])
    for name, value in fields.items():
        setattr(vm, name, value)
    vm.seen(now, status=status)
    return [*fields, "last_seen", "late_after", "silent_after", "status"]


def deregister(vm_id: str, *, caller: object = None) -> None:
    """Delete a VM's registration; its children keep its id. Raises NotFound, Forbidden."""
    with transaction.atomic():
        vm = find(vm_id)
        permissions.check(caller, "write", vm.pk)
        VM.objects.filter(pk=vm.pk).delete()
        _record_deregistered([vm.pk], caller or "reef")
        events.publish_nodes([vm.pk])


def mark_stopped(vm_id: str, unheard_since: datetime | None = None) -> bool:
    """Mark a VM as stopped; return whether it was running. Does not count as a heartbeat.

    With `unheard_since` a VM that was seen later is left unchanged.
    """
    rows = VM.objects.filter(pk=vm_id, status=Status.RUNNING)
    if unheard_since is not None:
        rows = rows.filter(last_seen__lte=unheard_since)
    with transaction.atomic():
        changed = rows.update(status=Status.STOPPED, late_after=None, silent_after=None)
        if changed:
            _record_status(vm_id, Status.STOPPED, "reef")
            events.publish_nodes([vm_id])
    return bool(changed)


def set_status(vm_id: str, status: Status, *, only_from: Sequence[str] = ()) -> bool:
    """Set the status of a VM without counting as a heartbeat; return False if it is unchanged.

    With `only_from`, change it only if the current status is one of these. Raises NotFound.
    """
    vm = VM.objects.filter(pk=vm_id).first()
    if vm is None:
        raise NotFound(f"VM '{vm_id}' is not registered")
    late = silent = None
    if status == Status.RUNNING:
        late, silent = liveness.deadlines(clock.now(), vm.interval_ms)
    rows = VM.objects.filter(pk=vm_id).exclude(status=status)
    if only_from:
        rows = rows.filter(status__in=only_from)
    with transaction.atomic():
        changed = rows.update(status=status, late_after=late, silent_after=silent)
        if changed:
            _record_status(vm_id, status, "reef")
            events.publish_nodes([vm_id])
    return bool(changed)


def deregister_all(vm_ids: Sequence[str]) -> None:
    """Deregister those of the VMs that are registered; the caller publishes the change."""
    with transaction.atomic():
        known = list(VM.objects.filter(pk__in=vm_ids).values_list("pk", flat=True))
        VM.objects.filter(pk__in=known).delete()
        _record_deregistered(known, "reef")


def _record_status(vm_id: str, status: str, by: object) -> None:
    recording.record_many([status_event(vm_id, status)], actor=by)


def status_event(vm_id: str, status: str) -> NewEvent:
    """Return the event that somebody changed the status. What heartbeats change is not recorded."""
    return NewEvent(f"vm.{status}", vm_id)


def _record_deregistered(vm_ids: Iterable[str], by: object) -> None:
    recording.record_many([NewEvent("vm.deregistered", vm_id) for vm_id in vm_ids], actor=by)


# -- heartbeats --------------------------------------------------------------------------------


def record_heartbeat(heartbeat: Heartbeat, *, caller: object = None) -> dict[str, Any]:
    """Record one heartbeat and return the response. Raises NotFound, Forbidden."""
    now, interval = clock.now(), beats.fleet.interval_ms()
    with transaction.atomic():
        outcome = beats.record([heartbeat], now, interval)
        if heartbeat.vm_id not in outcome.seen:
            raise NotFound(VM_NOT_FOUND)
        permissions.check(caller, "write", heartbeat.vm_id)
        events.publish_nodes(outcome.changed)
    return beats.response_for_one(heartbeat.vm_id, outcome, interval)


def record_heartbeats(heartbeats: Sequence[Heartbeat], *, caller: object = None) -> dict[str, Any]:
    """Record heartbeats in one transaction; the response names unknown ids. Raises Forbidden."""
    now, interval = clock.now(), beats.fleet.interval_ms()
    with transaction.atomic():
        outcome = beats.record(heartbeats, now, interval)
        check_may_write(caller, outcome.seen)
        events.publish_nodes(outcome.changed)
    return beats.response_for_many(heartbeats, outcome, now, interval)


def keep_alive(vm_ids: Sequence[str]) -> None:
    """Record heartbeats on behalf of VMs that are known to run; skip paused and stopped ones."""
    if not vm_ids:
        return
    now, interval = clock.now(), beats.fleet.interval_ms()
    with transaction.atomic():
        running = VM.objects.filter(pk__in=vm_ids, status=Status.RUNNING).order_by("pk")
        running_ids = list(running.select_for_update().values_list("pk", flat=True))
        events.publish_nodes(
            beats.record([Heartbeat(vm_id) for vm_id in running_ids], now, interval).changed
        )


def check_may_write(caller: object, vm_ids: Iterable[str]) -> None:
    """Raise Forbidden unless the caller may write about each of these VMs."""
    if permissions.is_operator(caller):
        return
    node = permissions.node_of(caller)
    if node is None:
        for vm_id in sorted(set(vm_ids)):
            permissions.check(caller, "write", vm_id)
        return
    outside = set(vm_ids) - {node.vm_id} - node_queries.descendant_vm_ids(node.pk)
    for vm_id in sorted(outside):
        # `check` has the final word: it knows removed nodes, too.
        permissions.check(caller, "write", vm_id)


def may_send_heartbeats(node: Node, vm_ids: Sequence[str]) -> bool:
    """Return whether this node certainly may send heartbeats for these VMs."""
    if all(vm_id == node.vm_id for vm_id in vm_ids):
        return True
    if len(vm_ids) == 1:
        return permissions.allows(node, "write", vm_ids[0])
    return {node.vm_id, *node_queries.descendant_vm_ids(node.pk)}.issuperset(vm_ids)


# -- queries -----------------------------------------------------------------------------------


def filter_vms(
    *, role: str = "", status: str = "", parent_vm_id: str = "", at: datetime | None = None
) -> VMQuerySet:
    """Return VMs that match these filters; `running` excludes silent VMs, as it always did."""
    found = VM.objects.all()
    if role:
        found = found.filter(role=to_storable(role))
    if parent_vm_id:
        found = found.filter(parent_vm_id=to_storable(parent_vm_id))
    if status == Status.RUNNING:
        return found.answering(at or clock.now())
    return found.filter(status=to_storable(status)) if status else found


def children(vm_id: str) -> QuerySet[VM]:
    """Return the children in the order of registration. Raises NotFound."""
    return VM.objects.filter(parent_vm_id=find(vm_id).pk).order_by("registered_at", "id")


def ancestors(vm_id: str) -> list[VM]:
    """Return the ancestors, topmost first, the VM itself last. Raises NotFound."""
    keys = lineage.ancestor_keys(LINKS, to_storable(vm_id))
    if not keys:
        raise NotFound(VM_NOT_FOUND)
    rows = VM.objects.in_bulk(keys)
    return [rows[key] for key in keys if key in rows]


def subtree(vm_id: str) -> list[VM]:
    """Return the VM and its descendants, breadth first, by registration. Raises NotFound."""
    start = to_storable(vm_id)
    rows = queries.subtree(start)
    found = lineage.breadth_first(rows, start, lambda vm: (vm.pk, vm.parent_vm_id))
    if not found:
        raise NotFound(VM_NOT_FOUND)
    return found


def gaps(vm: VM) -> QuerySet[Gap]:
    """Return the VM's gaps between heartbeats, oldest first."""
    return Gap.objects.filter(vm_id=vm.pk).order_by("ended_at")


def dna_difference(one: str, other: str) -> dict[str, dna.Dna]:
    """Return the organs and capabilities that the second VM adds and lacks. Raises NotFound."""
    vms = VM.objects.in_bulk([to_storable(one), to_storable(other)])
    if len(vms) < len({one, other}):
        raise NotFound(BOTH_NOT_FOUND)
    return dna.diff(vms[one].reef_config, vms[other].reef_config)


# -- deadlines ---------------------------------------------------------------------------------


def sweep(at: datetime | None = None) -> list[str]:
    """Record that reef is up, and publish which VMs became late or silent since the last run.

    Return their ids. VM rows are not written: liveness follows from their deadlines.
    """
    now = at or clock.now()
    with transaction.atomic():
        watch = _locked_watch(now)
        if set_back := watch.was_set_back(now):
            watch.set_back(now)
        elif watch.was_away(now):
            watch.up_since = now
        # Also once a minute: a host with a wrong clock may write a future time at any moment.
        ids = _clamp_last_seen(now) if set_back or now.second < _CLAMP_SECONDS else set()
        watch.ticked_at = now
        late = set(_overdue_between("late_after", watch.late_told_to, now))
        silent = set[str]()
        watch.late_told_to = now
        if not watch.forgives(now):
            silent = set(_overdue_between("silent_after", watch.silent_told_to, now))
            watch.silent_told_to = now
        fields = ["up_since", "ticked_at", "door_at", "late_told_to", "silent_told_to"]
        if not set_back:
            # Edges write this column, perhaps at this moment.
            fields.remove("door_at")
        watch.save(update_fields=fields)
        # Those that are silent already were late before, while nobody looked.
        overdue = [NewEvent("vm.late", vm_id) for vm_id in sorted(late - silent)]
        overdue += [NewEvent("vm.silent", vm_id) for vm_id in sorted(silent)]
        recording.record_many(overdue, actor="reef")
        ids |= late | silent
        events.publish_nodes(sorted(ids))
    Gap.objects.filter(ended_at__lt=now - GAP_RETENTION).delete()
    return sorted(ids)


def _clamp_last_seen(now: datetime) -> set[str]:
    """Move last heartbeats out of the future: such VMs would count as live until then. Return their
    ids.

    This happens after the clock was set back, or if another host's clock is ahead.
    """
    future = list(
        VM.objects.filter(last_seen__gt=now + liveness.CLOCK_TOLERANCE).select_for_update()
    )
    for vm in future:
        vm.last_seen = now
        vm.seen(now, status=vm.status)
    VM.objects.bulk_update(future, ["last_seen", "late_after", "silent_after"], batch_size=500)
    return {vm.pk for vm in future}


def record_edge_uptime(at: datetime) -> None:
    """Record that an edge is up and receives heartbeats."""
    watch, before = Watch.objects.filter(pk=1), at - liveness.DOWN_AFTER
    # The first process after a downtime, edge or clock, starts the grace period.
    away = Q(door_at__lt=before) | Q(door_at__isnull=True, ticked_at__lt=before)
    watch.filter(away).update(up_since=at)
    watch.update(door_at=at)


def _locked_watch(now: datetime) -> Watch:
    """Return the single row, locked; create it at the first start."""
    new = Watch(up_since=now, ticked_at=now, late_told_to=now, silent_told_to=now)
    Watch.objects.bulk_create([new], ignore_conflicts=True)
    return Watch.objects.select_for_update().get(pk=1)


def _overdue_between(column: str, after: datetime, until: datetime) -> Iterable[str]:
    """Return VMs whose deadline passed in this period."""
    between = {f"{column}__gt": after, f"{column}__lte": until}
    # Unordered: to order by id SQLite would read the whole table while writers wait.
    return VM.objects.late(until).filter(**between).order_by().values_list("pk", flat=True)
