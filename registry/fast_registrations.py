"""Registrations and new nodes that the edge writes itself, many in one transaction.

Only plain cases, with the rows and responses that `services.register` and `vmtree.services.create`
make. All others are passed on to Django: odd values, refusals, errors, and whatever depends on
another request of the batch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from django.db import transaction

from reef_site.common import clock, database_locks
from reef_site.common.asgi import JSONResponse
from reef_site.common.database_locks import DatabaseLock
from reef_site.common.eventlog import recording
from reef_site.common.json_format import dumps
from reef_site.common.queries.rows import insert_rows, update_row
from registry import heartbeats as beats
from registry import placement, queries, services
from registry.bearer_tokens import TokenOwner, unauthorized
from registry.models import VM
from registry.plain_bodies import Creating, Registering, Request
from registry.remembered import Remembered, find_owners
from registry.serializers import vm_json
from registry.write_routes import ROOT, EdgeChange, record_for_audit
from vmtree import permissions
from vmtree import services as tree
from vmtree.models import Node, Revision
from vmtree.queries import nodes as node_queries
from vmtree.serializers import node_json
from vmtree.services import NewNode


@dataclass
class Batch:
    """The rows that a batch depends on, read under the locks of its transaction."""

    owners: Mapping[str, TokenOwner]
    # Nodes by VM id, removed ones too, and those created here.
    nodes: dict[str, Node]
    vms: dict[str, VM]
    # Ids that are the parent of a registered VM.
    parents: set[str]
    # How many requests of each kind are about an id.
    subjects: Counter[tuple[type, str]]
    now: datetime = field(default_factory=clock.now)
    created: list[tuple[Node, str, Revision.What]] = field(default_factory=list)
    registered: list[tuple[VM, str]] = field(default_factory=list)

    def actor_of(self, request: Request) -> str:
        """Return the caller's name, as Django records it."""
        return f"node {self.owners[request.digest].vm_id}" if request.digest else ROOT

    def is_valid(self, request: Request) -> bool:
        """Return whether the token is valid."""
        return not request.digest or request.digest in self.owners

    def is_alone(self, request: Request) -> bool:
        """Return whether nothing else in the batch is about the same row or its parent."""
        parent = request.command.parent_vm_id or ""
        with_parent = self.subjects[Registering, parent] + self.subjects[Creating, parent]
        return self.subjects[type(request), _id_of(request)] == 1 and not with_parent

    def active(self, vm_id: str | None) -> Node | None:
        """Return the active node of a VM."""
        node = self.nodes.get(vm_id or "")
        return node if node and not node.removed_at else None

    def create(self, new: NewNode, by: str, what: Revision.What) -> Node:
        """Add a node, which is written with the others."""
        parent = self.nodes[new.parent_vm_id] if new.parent_vm_id else None
        node = Node(vm_id=new.vm_id, name=new.name, category=new.category, parent=parent)
        node.reef_config, node.created_at, node.updated_at = new.dna, self.now, self.now
        self.nodes[new.vm_id] = node
        self.created.append((node, by, what))
        return node


def write(
    requests: Sequence[Request], remembered: Remembered
) -> tuple[list[JSONResponse | None], set[str]]:
    """Write what is plain, in one transaction. Return responses, and the ids that changed.

    None in place of a response passes the request on.
    """
    with transaction.atomic():
        database_locks.lock(DatabaseLock.TREE_STRUCTURE, shared=True)
        database_locks.lock(DatabaseLock.REGISTRY_PARENTS)
        owners = find_owners((each.digest for each in requests), remembered.now())
        valid = [each for each in requests if not each.digest or each.digest in owners]
        batch = _read(valid, owners)
        # Nodes first: a VM that is created in the tree, too, need not be placed.
        order = sorted(range(len(requests)), key=lambda n: isinstance(requests[n], Registering))
        made = {n: _apply(requests[n], batch) for n in order if batch.is_valid(requests[n])}
        _write_rows(batch)
        audited = [
            _for_audit(each, batch, row.name)
            for n, each in enumerate(requests)
            if isinstance(row := made.get(n), Node)
        ]
        record_for_audit(audited)
        # A response that cannot be made undoes it all. The VMs have just been seen, so it does not
        # matter whether silence would be forgiven.
        json_of = {vm.pk: vm_json(vm, batch.now, grace=False) for vm, _ in batch.registered}
        responses = [
            _response(made.get(n), json_of) if batch.is_valid(each) else unauthorized()
            for n, each in enumerate(requests)
        ]
    changed = {node.vm_id for node, *_ in batch.created} | {vm.pk for vm, _ in batch.registered}
    return responses, changed


def _for_audit(request: Request, batch: Batch, name: str) -> EdgeChange:
    by, is_root = batch.actor_of(request), not request.digest
    return EdgeChange(by, is_root, request.address, "POST", "/vm-tree/vms", name, 201)


def _id_of(request: Request) -> str:
    return request.command.vm_id if isinstance(request, Creating) else request.command.id


def _read(requests: Sequence[Request], owners: Mapping[str, TokenOwner]) -> Batch:
    registering = [_id_of(each) for each in requests if isinstance(each, Registering)]
    known, parents = queries.registered_among(registering) if registering else (set(), set())
    rows = VM.objects.select_for_update().filter(pk__in=known).order_by("pk") if known else ()
    vms = {vm.pk: vm for vm in rows}
    wanted = {_id_of(each) for each in requests}
    wanted |= {each.command.parent_vm_id for each in requests if each.command.parent_vm_id}
    wanted |= {vm.parent_vm_id for vm in vms.values() if vm.parent_vm_id}
    return Batch(
        owners=owners,
        nodes=node_queries.places_of(wanted),
        vms=vms,
        parents=parents,
        subjects=Counter((type(each), _id_of(each)) for each in requests),
    )


def _response(row: VM | Node | None, json_of: Mapping[str, Any]) -> JSONResponse | None:
    if row is None:
        return None
    made = node_json(row) if isinstance(row, Node) else json_of[row.pk]
    return JSONResponse(201, dumps(made))


def _apply(request: Request, batch: Batch) -> VM | Node | None:
    """Return the row that the request makes; None to pass it on."""
    if not batch.is_alone(request):
        return None
    if isinstance(request, Creating):
        return _create(request, batch)
    return _register(request, batch)


def _create(request: Creating, batch: Batch) -> Node | None:
    new, parent = request.command, batch.active(request.command.parent_vm_id)
    if new.vm_id in batch.nodes or (new.parent_vm_id and parent is None):
        return None
    if request.digest:
        owner = batch.owners[request.digest]
        caller = Node(pk=owner.pk, vm_id=owner.vm_id)
        if not permissions.allows(caller, permissions.Action.WRITE, parent):
            return None
    return batch.create(new, batch.actor_of(request), Revision.What.CREATED)


def _register(request: Registering, batch: Batch) -> VM | None:
    """See `services.register`."""
    new, old = request.command, batch.vms.get(request.command.id)
    parent = new.parent_vm_id or (old.parent_vm_id if old else None)
    if parent != (old.parent_vm_id if old else None) and (
        parent == new.id or new.id in batch.parents or batch.subjects[Registering, parent or ""]
    ):
        # It could close a circle.
        return None
    node, places = batch.nodes.get(new.id), batch.active(parent)
    if request.digest and not _is_own(request, node, batch):
        return None
    by = batch.actor_of(request)
    vm = old or VM(id=new.id, registered_at=batch.now, last_seen=batch.now)
    services.assign(vm, new, batch.now, beats.fleet.interval_ms())
    vm.parent_vm_id = parent
    if places and node is None:
        category = placement.default_category(vm)
        placed = NewNode(vm.name, category, vm.pk, parent or "", vm.reef_config)
        batch.create(placed, by, Revision.What.PLACED)
    batch.registered.append((vm, by))
    return vm


def _is_own(request: Registering, node: Node | None, batch: Batch) -> bool:
    """Return whether a node registers itself where it is; Django looks at all other cases."""
    new = request.command
    above = node.parent.vm_id if node and node.parent else None
    is_self = node is not None and node.vm_id == batch.owners[request.digest or ""].vm_id
    return is_self and new.parent_vm_id in (None, above)


def _write_rows(batch: Batch) -> None:
    new = [(vm, by) for vm, by in batch.registered if vm.pk not in batch.vms]
    insert_rows(vm for vm, _ in new)
    for vm, _ in batch.registered:
        if vm.pk in batch.vms:
            update_row(vm)
    nodes = [node for node, *_ in batch.created]
    insert_rows(nodes)
    tree.write_new_traits(nodes)
    registered = [(by, services.registered_event(vm)) for vm, by in new]
    created = [(by, tree.changed_event(node, what)) for node, by, what in batch.created]
    recording.record_by([*registered, *created])
    tree.add_revisions(batch.created, batch.now)
