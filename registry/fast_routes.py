"""Reads of the registry that the edge answers itself: SQL for what `registry.api` answers."""

from __future__ import annotations

from datetime import datetime
from functools import partial
from typing import Any

from django.db import connection

from reef_site.common import json_sql
from reef_site.common.fast_routes import KEY, PLAIN, FastRoute, fast_routes
from reef_site.common.json_sql import json_list, parameter
from reef_site.common.queries import to_driver_time
from registry import liveness, services
from registry.models import LINKS
from registry.serializers import VMResponse
from vmtree import json_rows, lineage
from vmtree.queries import recursion

_VM = rf"/registry/vms/{KEY}"
_EXISTS = "EXISTS (SELECT 1 FROM registry_vm WHERE id = q.value)"
_NEWEST_FIRST = "ORDER BY v.last_seen DESC, v.id"


def parameters(at: datetime) -> dict[str, Any]:
    """Return the parameters of all expressions for one moment."""
    return {
        "at": to_driver_time(at),
        "grace_since": to_driver_time(at - liveness.GRACE_PERIOD),
        "down_before": to_driver_time(at - liveness.DOWN_AFTER),
    }


def _grace() -> str:
    """Return a condition: whether no VM may be called silent now; see `Watch.forgives`."""
    latest = "GREATEST" if connection.vendor == "postgresql" else "max"
    seen = f"{latest}(w.ticked_at, coalesce(w.door_at, w.ticked_at))"
    return (
        "EXISTS (SELECT 1 FROM registry_watch w WHERE"
        f" w.up_since > {parameter('grace_since')} OR {seen} < {parameter('down_before')})"
    )


def _vm() -> str:
    """Return the expression of the JSON of the VM `v`; see `liveness.liveness_at`."""
    at, empty = parameter("at"), "'{}'"
    if connection.vendor == "postgresql":
        at, empty = f"{at}::timestamptz", "'{}'::jsonb"
    late = f"v.silent_after IS NULL OR {at} < v.silent_after OR {_grace()}"
    state = (
        f"CASE WHEN v.late_after IS NULL OR {at} < v.late_after THEN '\"live\"'"
        f" WHEN {late} THEN '\"late\"' ELSE '\"silent\"' END"
    )
    return json_sql.json_object(
        VMResponse,
        "v",
        sources={"liveness": state},
        present={"metadata": "v.has_metadata", "vitals": f"v.vitals <> {empty}"},
    )


def _one() -> str:
    return f"(SELECT {_vm()} FROM registry_vm v WHERE v.id = q.value)"


def _all() -> str:
    rows = f"SELECT {_vm()} AS json FROM registry_vm v {_NEWEST_FIRST}"
    return json_list("vms", rows)


def _some(condition: str) -> str:
    rows = f"SELECT {_vm()} AS json FROM registry_vm v WHERE {condition} {_NEWEST_FIRST}"
    return json_list("vms", rows)


def _answering() -> str:
    """Return a condition: whether the VM is running and not silent; see `VMQuerySet.answering`."""
    return f"v.status = 'running' AND (v.silent_after > {parameter('at')} OR {_grace()})"


def _children() -> str:
    rows = (
        f"SELECT {_vm()} AS json FROM registry_vm v WHERE v.parent_vm_id = q.value"
        " ORDER BY v.registered_at, v.id"
    )
    return f"CASE WHEN {_EXISTS} THEN {json_list('children', rows)} END"


def _pieces_of_line(line: str) -> str:
    """Return the VMs of a recursive query as pieces, by registration."""
    vms = "line JOIN registry_vm v ON v.id = line.key"
    if connection.vendor == "postgresql":
        one = "SELECT * FROM registry_vm WHERE id = line.key OFFSET 0"
        vms = f"line CROSS JOIN LATERAL ({one}) v"
    rows = f"FROM {vms} ORDER BY v.registered_at, v.id"
    return f"({line} {json_sql.pieces('v.id', 'v.parent_vm_id', _vm(), rows)[1:]}"


def _line_of_ancestors() -> str:
    return _pieces_of_line(recursion.above(LINKS, start="id = q.value"))


def _line_of_descendants() -> str:
    return _pieces_of_line(recursion.below(LINKS, start="id = q.value"))


def _ancestors(found: bytes, vm_id: str) -> bytes:
    """Return the response: the ancestors, topmost first, the VM itself last."""
    rows = {row.key: row for row in json_sql.split(found)}
    line = lineage.path_to(vm_id, {key: row.parent for key, row in rows.items()})
    return _response("ancestors", [rows[key] for key in line])


def _subtree(found: bytes, vm_id: str) -> bytes:
    """Return the response: the VM and its descendants, breadth first."""
    return _response("subtree", json_rows.breadth_first(json_sql.split(found), vm_id))


def _response(name: str, rows: list[json_sql.Piece]) -> bytes:
    return f'{{"{name}":{json_rows.json_list(rows)},"count":{len(rows)}}}'.encode()


MISSING = services.VM_NOT_FOUND
_route = partial(FastRoute, values=parameters)
ROUTES = {
    "registry.vm": _route(rf"{_VM}/?", _one, MISSING),
    "registry.vms": _route(r"/registry/vms/?", _all, large=True),
    "registry.discover": _route(
        rf"/registry/discover/{KEY}/?", lambda: _some(f"v.role = q.value AND {_answering()}")
    ),
    "registry.running": _route(
        r"/registry/vms/?\?status=running", lambda: _some(_answering()), large=True
    ),
    **{
        f"registry.by-{name}": _route(
            rf"/registry/vms/?\?{name}={PLAIN}", partial(_some, f"v.{column} = q.value"), large=True
        )
        for name, column in (("role", "role"), ("status", "status"), ("parentVmId", "parent_vm_id"))
    },
    "registry.children": _route(rf"{_VM}/children/?", _children, MISSING),
    "registry.ancestors": _route(rf"{_VM}/ancestors/?", _line_of_ancestors, MISSING, _ancestors),
    "registry.subtree": _route(
        rf"{_VM}/subtree/?", _line_of_descendants, MISSING, _subtree, large=True
    ),
}


def register() -> None:
    """Add these routes to those of the edge."""
    for key, route in ROUTES.items():
        fast_routes.register(route, key=key)
