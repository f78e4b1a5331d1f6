"""What may be asked of the registry. Rows are committed first, watchers are told afterwards."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any

from django.db import IntegrityError, connection, transaction
from django.db.models import Q, QuerySet

from reef_site.common import clock, database_locks, events
from reef_site.common.database_locks import DatabaseLock
from reef_site.common.errors import BadInput, NotFound
from registry import beats, liveness, placing
from registry.beats import Beat
from registry.models import LINKS, VM, Gap, Status, VMQuerySet, Watch
from registry.serializers import Registration
from vmtree import authority, dna, lineage
from vmtree import names as vm_names
from vmtree.models import LINKS as TREE
from vmtree.models import Node

VM_NOT_FOUND = "VM not found"
BOTH_NOT_FOUND = "One or both VMs not found"
GAPS_KEPT = timedelta(days=7)
_CLAMP_SECONDS = 10


def find(vm_id: str) -> VM:
    """The registered VM of this id, or NotFound."""
    vm = VM.objects.filter(pk=storable(vm_id)).first()
    if vm is None:
        raise NotFound(VM_NOT_FOUND)
    return vm


def storable(text: str) -> str:
    """The text itself, or one that no row has when the database could not even look for it."""
    clean = text.encode("utf-8", "replace").decode()
    return clean.replace("\0", "\ufffd")


# -- registering -------------------------------------------------------------------------------


def register(wish: Registration, *, caller: object = None) -> VM:
    """Add a VM, or bring what is known of it up to date; it is running and was seen now.

    Below a parent that the tree has, it takes its place there. Raises BadInput for a circle of
    parents, Forbidden.
    """
    may_register(caller, wish.id, wish.parent_vm_id)
    if wish.clears_parent and not authority.may(caller, "write", None):
        # A node's registration takes nobody from where he stands; null says nothing.
        wish = dataclasses.replace(wish, clears_parent=False)
    try:
        with transaction.atomic():
            vm = _take_in(wish, caller)
    except IntegrityError:
        # Somebody registered it between our look and our insert.
        with transaction.atomic():
            vm = _take_in(wish, caller)
    events.publish_nodes([vm.pk])
    return vm


def may_register(caller: object, vm_id: str, parent_vm_id: str | None) -> None:
    """Nodes register themselves and what is, or will be, below them. Raises Forbidden."""
    if authority.node_of(caller) is None:
        return
    known = Node.objects.filter(vm_id=vm_id).exists()
    authority.check(caller, "write", vm_id if known or not parent_vm_id else parent_vm_id)
    if parent_vm_id and known:
        _may_take_parent(caller, vm_id, parent_vm_id)


def _may_take_parent(caller: object, vm_id: str, parent_vm_id: str | None) -> None:
    """A node stays where it is, and moves others only to below itself. Raises Forbidden."""
    there = Node.objects.filter(vm_id=vm_id, parent__vm_id=parent_vm_id).exists()
    if not there:
        authority.check(caller, "command", vm_id)
        authority.check(caller, "write", parent_vm_id)


def _take_in(wish: Registration, caller: object) -> VM:
    said = wish.parent_vm_id
    if said is None and not wish.clears_parent:
        said = VM.objects.filter(pk=wish.id).values_list("parent_vm_id", flat=True).first()
    awaited = placing.is_awaited(wish.id, said)
    if awaited:
        # Before any row: whoever removes VMs takes both in this order, too.
        database_locks.lock(DatabaseLock.TREE_STRUCTURE, shared=True)
    vm = _upsert(wish)
    if awaited:
        placing.place_by_itself(vm, by=caller or "its registration")
    return vm


def _upsert(wish: Registration) -> VM:
    now, interval = clock.now(), beats.fleet.interval_ms()
    old = VM.objects.select_for_update().filter(pk=wish.id).first()
    vm = old or VM(id=wish.id, registered_at=now, last_seen=now)
    if old is None:
        vm_names.check(vm.pk, "id")
    if vm.name != wish.name:
        vm_names.check(wish.name)
    vm.name, vm.role, vm.address = wish.name, wish.role, wish.address
    vm.registered_by, vm.interval_ms = wish.registered_by, interval
    if wish.services is not None:
        vm.services = wish.services
    if wish.reef_config is not None:
        vm.reef_config = wish.reef_config
        vm.vitals.pop("reefConfigDigest", None)
    if wish.metadata is not None:
        vm.metadata, vm.has_metadata = wish.metadata, True
    parent = vm.parent_vm_id if wish.parent_vm_id is None else wish.parent_vm_id
    _set_parent(vm, None if wish.clears_parent else parent)
    vm.seen(now)
    # All columns: the row is locked, or new.
    vm.save(force_insert=old is None, force_update=old is not None)
    return vm


def _set_parent(vm: VM, parent: str | None) -> None:
    """Put a VM below another one; unknown parents are taken, circles are not."""
    if parent == vm.parent_vm_id:
        return
    if parent == vm.pk:
        raise BadInput("parentVmId: a VM cannot be its own parent", "parentVmId")
    if parent is not None:
        database_locks.lock(DatabaseLock.REGISTRY_PARENTS)
        # A parent that is not registered may be somebody's child later: no circle now.
        if vm.pk in lineage.keys_above(LINKS, parent) or _hangs_on(parent, vm.pk):
            text = f"parentVmId: '{parent}' stands below '{vm.pk}', which cannot stand below it"
            raise BadInput(text, "parentVmId")
    vm.parent_vm_id = parent


def _hangs_on(parent: str, vm_id: str) -> bool:
    """Whether the topmost known ancestor of `parent` names `vm_id`, not registered yet, its own."""
    above = lineage.keys_above(LINKS, parent)
    return bool(above) and VM.objects.filter(pk=above[0], parent_vm_id=vm_id).exists()


def patch(vm_id: str, changes: dict[str, Any], *, caller: object = None) -> VM:
    """Set these columns; a patch is a sign of life. Raises NotFound, BadInput, Forbidden."""
    with transaction.atomic():
        vm = VM.objects.select_for_update().filter(pk=storable(vm_id)).first()
        if vm is None:
            raise NotFound(VM_NOT_FOUND)
        authority.check(caller, "write", vm.pk)
        fields = dict(changes)
        if "parent_vm_id" in fields:
            parent = fields.pop("parent_vm_id")
            if parent != vm.parent_vm_id:
                _may_take_parent(caller, vm.pk, parent)
            _set_parent(vm, parent)
        status = fields.pop("status", vm.status)
        if fields.get("name", vm.name) != vm.name:
            vm_names.check(fields["name"])
        for name, value in fields.items():
            setattr(vm, name, value)
        vm.seen(clock.now(), status=status)
        signs = ["last_seen", "late_after", "silent_after", "status"]
        vm.save(update_fields=[*fields, *signs, "parent_vm_id"])
        events.publish_nodes([vm.pk])
    return vm


def deregister(vm_id: str, *, caller: object = None) -> None:
    """Forget a VM; its children keep its id. Raises NotFound, Forbidden."""
    with transaction.atomic():
        vm = find(vm_id)
        authority.check(caller, "write", vm.pk)
        VM.objects.filter(pk=vm.pk).delete()
        events.publish_nodes([vm.pk])


def mark_stopped(vm_id: str, unheard_since: datetime | None = None) -> bool:
    """Note that a VM does not run any more; whether it was said to run. Not a sign of life.

    With `unheard_since` one that was heard of later is left as it is.
    """
    rows = VM.objects.filter(pk=vm_id, status=Status.RUNNING)
    if unheard_since is not None:
        rows = rows.filter(last_seen__lte=unheard_since)
    with transaction.atomic():
        changed = rows.update(status=Status.STOPPED, late_after=None, silent_after=None)
        if changed:
            events.publish_nodes([vm_id])
    return bool(changed)


def forget(vm_ids: Sequence[str]) -> None:
    """Deregister those of them that are registered; whoever removes them tells of it."""
    VM.objects.filter(pk__in=vm_ids).delete()


# -- beats -------------------------------------------------------------------------------------


def beat(one: Beat, *, caller: object = None) -> dict[str, Any]:
    """Note one beat; its answer. Raises NotFound, Forbidden."""
    now, interval = clock.now(), beats.fleet.interval_ms()
    with transaction.atomic():
        done = beats.record([one], now, interval)
        if one.vm_id not in done.seen:
            raise NotFound(VM_NOT_FOUND)
        authority.check(caller, "write", one.vm_id)
        events.publish_nodes(done.changed)
    return beats.single_answer(one.vm_id, done, interval)


def beat_all(many: Sequence[Beat], *, caller: object = None) -> dict[str, Any]:
    """Note many beats in one transaction; the answer names unknown ids. Raises Forbidden."""
    now, interval = clock.now(), beats.fleet.interval_ms()
    with transaction.atomic():
        done = beats.record(many, now, interval)
        check_all(caller, done.seen)
        events.publish_nodes(done.changed)
    return beats.bulk_answer(many, done, now, interval)


def keep_alive(vm_ids: Sequence[str]) -> None:
    """Beats by whoever sees these VMs run; they wake nobody who was paused or stopped."""
    if not vm_ids:
        return
    now, interval = clock.now(), beats.fleet.interval_ms()
    with transaction.atomic():
        running = VM.objects.filter(pk__in=vm_ids, status=Status.RUNNING).order_by("pk")
        held = list(running.select_for_update().values_list("pk", flat=True))
        events.publish_nodes(beats.record([Beat(vm_id) for vm_id in held], now, interval).changed)


def check_all(caller: object, vm_ids: Iterable[str]) -> None:
    """Raise Forbidden unless the caller may write about each of these."""
    mine = authority.node_of(caller)
    if mine is None:
        return
    outside = set(vm_ids) - {mine.vm_id} - _ids_below(mine)
    for vm_id in sorted(outside):
        # In the words of the one rule, which knows removed nodes, too.
        authority.check(caller, "write", vm_id)


def may_beat(node: Node, vm_ids: Sequence[str]) -> bool:
    """Whether it is clear that this node may beat for these."""
    if all(vm_id == node.vm_id for vm_id in vm_ids):
        return True
    if len(vm_ids) == 1:
        return authority.allows(node, "write", vm_ids[0])
    return {node.vm_id, *_ids_below(node)}.issuperset(vm_ids)


def _ids_below(node: Node) -> set[str]:
    sql = f"{lineage.below(TREE)} SELECT n.vm_id FROM line JOIN vmtree_node n ON n.id = line.key"  # noqa: S608
    with connection.cursor() as cursor:
        cursor.execute(sql, [node.pk])
        return {row[0] for row in cursor.fetchall()}


# -- looking -----------------------------------------------------------------------------------


def listed(
    *, role: str = "", status: str = "", parent_vm_id: str = "", at: datetime | None = None
) -> VMQuerySet:
    """VMs by these filters; `running` leaves silent ones out, as it always did."""
    found = VM.objects.all()
    if role:
        found = found.filter(role=storable(role))
    if parent_vm_id:
        found = found.filter(parent_vm_id=storable(parent_vm_id))
    if status == Status.RUNNING:
        return found.answering(at or clock.now())
    return found.filter(status=storable(status)) if status else found


def children(vm_id: str) -> QuerySet[VM]:
    """Those whose parent this VM is, in the order of their registration. Raises NotFound."""
    return VM.objects.filter(parent_vm_id=find(vm_id).pk).order_by("registered_at", "id")


def ancestors(vm_id: str) -> list[VM]:
    """From the topmost known ancestor down to the VM itself. Raises NotFound."""
    keys = lineage.keys_above(LINKS, storable(vm_id))
    if not keys:
        raise NotFound(VM_NOT_FOUND)
    rows = VM.objects.in_bulk(keys)
    return [rows[key] for key in keys if key in rows]


def subtree(vm_id: str) -> list[VM]:
    """The VM and all below it, breadth first, children by registration. Raises NotFound."""
    start = storable(vm_id)
    sql = f"{lineage.below(LINKS)} SELECT v.* FROM line JOIN registry_vm v ON v.id = line.key"  # noqa: S608
    rows = list(VM.objects.raw(f"{sql} ORDER BY v.registered_at, v.id", [start]))
    found = lineage.breadth_first(rows, start, lambda vm: (vm.pk, vm.parent_vm_id))
    if not found:
        raise NotFound(VM_NOT_FOUND)
    return found


def gaps(vm: VM) -> QuerySet[Gap]:
    """When this VM was not heard of, oldest first."""
    return Gap.objects.filter(vm_id=vm.pk).order_by("ended_at")


def difference(one: str, other: str) -> dict[str, dna.Dna]:
    """What the second VM's DNA has more and less than the first's. Raises NotFound."""
    vms = VM.objects.in_bulk([storable(one), storable(other)])
    if len(vms) < len({one, other}):
        raise NotFound(BOTH_NOT_FOUND)
    return dna.diff(vms[one].reef_config, vms[other].reef_config)


# -- the clock ---------------------------------------------------------------------------------


def sweep(at: datetime | None = None) -> list[str]:
    """Note that reef is there, and tell which VMs became late or silent since the last time.

    Returns their ids. Nothing is written for a VM: what it is called follows from its deadlines.
    """
    now = at or clock.now()
    with transaction.atomic():
        watch = _watch(now)
        if set_back := watch.was_set_back(now):
            watch.set_back(now)
        elif watch.was_away(now):
            watch.up_since = now
        # Also once a minute: a host whose clock is ahead may have written one at any time.
        ids = _clamp_signs(now) if set_back or now.second < _CLAMP_SECONDS else set()
        watch.ticked_at = now
        ids |= set(_due("late_after", watch.late_told_to, now))
        watch.late_told_to = now
        if not watch.forgives(now):
            ids |= set(_due("silent_after", watch.silent_told_to, now))
            watch.silent_told_to = now
        fields = ["up_since", "ticked_at", "door_at", "late_told_to", "silent_told_to"]
        if not set_back:
            # An edge writes this one, and may do so at this moment.
            fields.remove("door_at")
        watch.save(update_fields=fields)
        events.publish_nodes(sorted(ids))
    Gap.objects.filter(ended_at__lt=now - GAPS_KEPT).delete()
    return sorted(ids)


def _clamp_signs(now: datetime) -> set[str]:
    """Let no VM have been seen in the future: it would count as live until then. Returns their ids.

    The clock was set back since, or that of another host is ahead.
    """
    ahead = list(VM.objects.filter(last_seen__gt=now + liveness.TOLERANCE).select_for_update())
    for vm in ahead:
        vm.last_seen = now
        vm.seen(now, status=vm.status)
    VM.objects.bulk_update(ahead, ["last_seen", "late_after", "silent_after"], batch_size=500)
    return {vm.pk for vm in ahead}


def door_open(at: datetime) -> None:
    """Note that an edge is there to take beats."""
    watch, before = Watch.objects.filter(pk=1), at - liveness.DOWN
    # Whoever comes first after a time without reef, this or the clock, begins the grace.
    away = Q(door_at__lt=before) | Q(door_at__isnull=True, ticked_at__lt=before)
    watch.filter(away).update(up_since=at)
    watch.update(door_at=at)


def _watch(now: datetime) -> Watch:
    """The one row, locked; at the first start it is made."""
    fresh = Watch(up_since=now, ticked_at=now, late_told_to=now, silent_told_to=now)
    Watch.objects.bulk_create([fresh], ignore_conflicts=True)
    return Watch.objects.select_for_update().get(pk=1)


def _due(column: str, after: datetime, until: datetime) -> Iterable[str]:
    """VMs whose deadline passed in this time."""
    between = {f"{column}__gt": after, f"{column}__lte": until}
    # Without an order: for that of ids SQLite would read the whole table, and others wait to write.
    return VM.objects.late(until).filter(**between).order_by().values_list("pk", flat=True)
