"""Changes of registered VMs and of nodes that the edge writes itself, see `write_routes`."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple

from django.conf import settings

from reef_site.common.asgi import JSONResponse
from reef_site.common.eventlog import recording
from reef_site.common.fast_routes import KEY
from reef_site.common.json_format import dumps
from reef_site.common.queries.rows import update_row
from registry import plain_bodies, services
from registry.models import VM
from registry.serializers import vm_json
from registry.write_routes import Call, EdgeChange, WriteRoute, Written, alone, record_for_audit
from registry.write_routes import write_routes as routes
from vmtree import services as tree
from vmtree.models import Node
from vmtree.permissions import Action
from vmtree.serializers import node_json


class VMChange(NamedTuple):
    """Columns of a registered VM and their new values."""

    vm_id: str
    columns: dict[str, Any]


class NodeChange(NamedTuple):
    """Fields of a node and their new values; its parent is not among them."""

    vm_id: str
    fields: tree.NodeChange


# -- registered VMs ------------------------------------------------------------------------------


def parse_vm_change(vm_id: str, data: dict[str, Any]) -> VMChange | None:
    """Return the command of a body; None to pass it on."""
    columns = plain_bodies.vm_changes(data)
    return None if columns is None else VMChange(vm_id, columns)


def write_vm_changes(calls: Sequence[Call], now: datetime) -> Written:
    """See `services.patch`."""
    ids = [call.command.vm_id for call in calls]
    rows = VM.objects.select_for_update().filter(pk__in=ids).order_by("pk")
    vms, once = {vm.pk: vm for vm in rows}, alone(ids)
    written, events = Written([]), []
    for call in calls:
        vm = vms.get(call.command.vm_id)
        if vm is None or vm.pk not in once or not _may_write(call, vm.pk):
            written.responses.append(None)
            continue
        before = vm.status
        update_row(vm, services.assign_changes(vm, call.command.columns, now))
        if vm.status != before:
            events.append((call.by, services.status_event(vm.pk, vm.status)))
        # It has just been seen, so it does not matter whether silence would be forgiven.
        written.responses.append(JSONResponse(200, dumps(vm_json(vm, now, grace=False))))
        written.changed.add(vm.pk)
    recording.record_by(events)
    return written


def _may_write(call: Call, vm_id: str) -> bool:
    # A node with a valid token is active, and writes about itself.
    is_own = call.owner is not None and call.owner.vm_id == vm_id
    return is_own or call.may(Action.WRITE, vm_id)


# -- nodes ---------------------------------------------------------------------------------------


def parse_node_change(vm_id: str, data: dict[str, Any]) -> NodeChange | None:
    """Return the command of a body; None to pass it on."""
    fields = plain_bodies.node_changes(data)
    return None if fields is None else NodeChange(vm_id, fields)


def write_node_changes(calls: Sequence[Call], now: datetime) -> Written:
    """See `vmtree.services.change`."""
    ids = [call.command.vm_id for call in calls]
    rows = Node.objects.select_for_update(of=("self",), no_key=True).select_related("parent")
    # Removed ones are sorted out here: SQLite would look through all that are not.
    found = rows.filter(vm_id__in=ids).order_by("pk")
    nodes = {row.vm_id: row for row in found if not row.removed_at}
    once, done = alone(ids), list[tuple[Call, Node]]()
    for call in calls:
        node = nodes.get(call.command.vm_id)
        if node and node.vm_id in once and _may_change(call, node):
            done.append((call, node))
    tree.write_changes([(node, call.command.fields, call.by) for call, node in done], now)
    record_for_audit([_for_audit(call, node) for call, node in done])
    responses = {id(call): JSONResponse(200, dumps(node_json(node))) for call, node in done}
    changed = {node.vm_id for _, node in done}
    return Written([responses.get(id(call)) for call in calls], changed)


def _may_change(call: Call, node: Node) -> bool:
    """Return whether the caller may make this change."""
    category = call.command.fields.category
    commands = category is not tree.UNCHANGED and category != node.category
    return call.may(Action.WRITE, node) and (not commands or call.may(Action.COMMAND, node))


def _for_audit(call: Call, node: Node) -> EdgeChange:
    where = (call.address, "PATCH", "/vm-tree/vms/<vm_id>")
    return EdgeChange(call.by, call.owner is None, *where, node.vm_id, 200)


# -- routes --------------------------------------------------------------------------------------


def register() -> None:
    """Add these routes to those of the edge."""
    vms = WriteRoute("PATCH", rf"/registry/vms/{KEY}/?", parse_vm_change, write_vm_changes)
    routes.register(vms, key="registry.vm")
    if "vm-tree" in settings.ORGANS:
        nodes = WriteRoute("PATCH", rf"/vm-tree/vms/{KEY}/?", parse_node_change, write_node_changes)
        routes.register(nodes, key="vmtree.node")
