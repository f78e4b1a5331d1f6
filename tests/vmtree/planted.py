"""A large tree, created with few statements."""

from __future__ import annotations

from datetime import timedelta

from django.db import connection

from reef_site.common import clock
from registry.models import VM, Watch
from vmtree.models import Node, Trait

DNA = {"organs": ["store", "cron"], "capabilities": ["vers-vm"]}
KINDS = ["lieutenant", "swarm_vm", "agent_vm"]
LIEUTENANTS = 20


def plant(count: int) -> None:
    """Add nodes up to `count`: 20 lieutenants, each with ten swarms, whose VMs have agents below.

    Of each hundred VMs, one is silent and one late; of each five hundred, one is paused.
    """
    start, now = Node.objects.count(), clock.now()
    nodes = [_node(number) for number in range(start, count)]
    for number, node in enumerate(nodes, start):
        node.created_at = now + timedelta(milliseconds=number)
    Node.objects.bulk_create(nodes, batch_size=2000)
    traits = [Trait(node=node, kind="organ", name="store", position=0) for node in nodes]
    Trait.objects.bulk_create(traits, batch_size=5000)
    VM.objects.bulk_create([_vm(node) for node in nodes], batch_size=2000)
    set_long_uptime()
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            # Soon it would do that by itself. SQLite never does, and would keep it for other tests.
            cursor.execute("ANALYZE")


def set_long_uptime() -> None:
    """Record that reef has been up for an hour, so that a silence is not its own fault."""
    since = clock.now() - timedelta(hours=1)
    Watch.objects.update_or_create(pk=1, defaults={"up_since": since})


def _node(number: int) -> Node:
    parent = None
    if number >= 11 * LIEUTENANTS:
        parent = number // 11 + 1
    elif number >= LIEUTENANTS:
        parent = number % LIEUTENANTS + 1
    category = KINDS[0 if parent is None else 1 if number < 11 * LIEUTENANTS else 2]
    return Node(
        pk=number + 1,
        vm_id=f"vm-{number}",
        name=f"{category.removesuffix('_vm')} {number}",
        category=category,
        parent_id=parent,
        reef_config=DNA,
    )


def _vm(node: Node) -> VM:
    number, now = int(node.vm_id[3:]), clock.now()
    vm = VM(id=node.vm_id, name=node.name, role="worker", registered_by="tests")
    vm.interval_ms, vm.registered_at = 60_000, now - timedelta(days=2)
    vm.last_seen = now - timedelta(minutes={77: 10, 78: 4}.get(number % 100, 0))
    vm.seen(vm.last_seen, status="paused" if number % 500 == 99 else "running")
    # No deadline passes during a test, however long it takes.
    if vm.late_after and number % 100 != 77:
        vm.silent_after = now + timedelta(hours=6)
        vm.late_after = now - timedelta(minutes=1) if number % 100 == 78 else vm.silent_after
    return vm
