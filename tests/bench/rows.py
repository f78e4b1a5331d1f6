"""Bench of rows as JSON: `python -m tests.bench.rows [count]`.

Rows per second by the readers that are made from the field lists of responses, beside plain
functions with the same fields written by hand. CPU time, best of the repetitions.
"""

# Django must be set up before its models are imported.
# ruff: noqa: E402
from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from typing import Any

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.settings")

import django

django.setup()

from reef_site.common import clock
from registry import serializers
from registry.models import VM
from vmtree.models import Node
from vmtree.serializers import node_json

REPETITIONS = 15
NOW = clock.now()


def plain_vm(vm: VM) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "id": vm.id,
        "name": vm.name,
        "role": vm.role,
        "status": vm.status,
        "address": vm.address,
        "parentVmId": vm.parent_vm_id,
        "services": vm.services,
        "reefConfig": vm.reef_config,
        "registeredBy": vm.registered_by,
        "registeredAt": vm.registered_at,
        "lastSeen": vm.last_seen,
    }
    if vm.has_metadata:
        facts["metadata"] = vm.metadata
    facts["liveness"] = vm.liveness(NOW, grace=False).value
    if vm.vitals:
        facts["vitals"] = vm.vitals
    return facts


def plain_node(node: Node) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "vmId": node.vm_id,
        "name": node.name,
        "parentVmId": node.parent_vm_id,
        "category": node.category,
        "reefConfig": node.reef_config,
        "createdAt": node.created_at,
        "updatedAt": node.updated_at,
    }
    if node.removed_at:
        facts["removedAt"] = node.removed_at
    if node.destroyed_at:
        facts |= {"destroyed": True, "destroyedAt": node.destroyed_at}
    return facts


def measure(name: str, read: Callable[[Any], object], rows: list[Any]) -> None:
    best = float("inf")
    for _ in range(REPETITIONS):
        began = time.process_time()
        for row in rows:
            read(row)
        best = min(best, time.process_time() - began)
    print(f"{name:<28} {len(rows) / best:>12,.0f} rows/s   {best * 1000:6.1f} ms")


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    dna = {"organs": ["store"], "capabilities": []}
    vms = [
        VM(id=f"vm-{n}", name=f"vm {n}", role="worker", address="::1", reef_config=dna)
        for n in range(count)
    ]
    nodes = [Node(vm_id=f"vm-{n}", name="x", category="agent_vm") for n in range(count)]
    measure("VM objects, reader", lambda vm: serializers.vm_json(vm, NOW, grace=False), vms)
    measure("VM objects, by hand", plain_vm, vms)
    measure("node objects, reader", node_json, nodes)
    measure("node objects, by hand", plain_node, nodes)


if __name__ == "__main__":
    main()
