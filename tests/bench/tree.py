"""Bench of the tree: `python -m tests.bench.tree [sqlite|postgresql]`, both if none is named.

Milliseconds: median and best of the repetitions, and the median of this process's own CPU time,
which other work on the machine does not change (a PostgreSQL server's is not in it). What a door
takes is measured at the door: one request through Django, from the URL to the bytes of its
answer. Limits stand in the issue; a figure beyond its limit ends the run with exit code 1.
"""

# Django must be set up before its models are imported.
# ruff: noqa: E402
from __future__ import annotations

import contextlib
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.settings")

import django

django.setup()

from django.core.management import call_command
from django.db import connection, connections
from django.test import Client
from django.test.utils import CaptureQueriesContext

from reef_site.install.testing_tools import find_postgresql
from tests.postgres import Cluster, connected_to
from vmtree import json_rows
from vmtree.models import Node, Revision, Trait

SMALL, LARGE, CHAIN = 10_000, 100_000, 5_000
TRAITS_OF = {"organs": ["store", "cron"], "capabilities": ["vers-vm"]}
failed: list[str] = []


@contextlib.contextmanager
def sqlite() -> Iterator[None]:
    """A new file with our tables."""
    with tempfile.TemporaryDirectory() as folder:
        settings = {**connections.settings["default"], "NAME": str(Path(folder) / "bench.sqlite3")}
        with connected_to(settings):
            call_command("migrate", verbosity=0)
            yield


@contextlib.contextmanager
def postgresql() -> Iterator[None]:
    """A new server with our tables."""
    cluster = Cluster(Path(find_postgresql() or "/usr/lib/postgresql"))
    try:
        with connected_to(cluster.settings(cluster.create())):
            call_command("migrate", verbosity=0)
            yield
    finally:
        cluster.close()


def fill(count: int, parent_of: Callable[[int], int | None]) -> int:
    """`count` nodes v0, v1, …; every 1000th has the organ `rare`. The key of the first."""
    for model in (Trait, Revision):
        model.objects.all().delete()
    Node.objects.all().update(parent=None)
    Node.objects.all().delete()
    first = Node.objects.create(vm_id="v0", name="roof", category="infra_vm").pk
    for start in range(1, count, 5000):
        Node.objects.bulk_create(
            Node(
                id=first + n,
                vm_id=f"v{n}",
                name=f"vm number {n}",
                category="swarm_vm",
                parent_id=None if (above := parent_of(n)) is None else first + above,
                reef_config={**TRAITS_OF, "organs": ["rare"]} if n % 1000 == 0 else TRAITS_OF,
            )
            for n in range(start, min(start + 5000, count))
        )
    nodes = list(Node.objects.all())
    for start in range(0, count, 5000):
        some = nodes[start : start + 5000]
        Trait.objects.bulk_create(
            Trait(node=node, kind=kind, name=name, position=position)
            for node in some
            for kind, names in (("organ", node.organs), ("capability", node.capabilities))
            for position, name in enumerate(names)
        )
        Revision.objects.bulk_create(
            Revision(
                node=node,
                actor="bench",
                what="created",
                name=node.name,
                category=node.category,
                reef_config=node.reef_config,
            )
            for node in some
        )
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE")
    return first


def fleet_parent(number: int) -> int | None:
    """Roof; 100 lieutenants; under each, VMs in threes of three levels."""
    if number <= 100:
        return 0
    rank = number - 101
    lieutenant, place = rank % 100 + 1, rank // 100
    if place < 10:
        return lieutenant
    return 101 + ((place - 10) // 3) * 100 + (lieutenant - 1)


def clocked(act: Callable[[], object], times: int) -> tuple[float, float, float]:
    """Median and best of so many, and the median of this process's CPU; ms.

    One before them is not counted.
    """
    act()
    taken, worked = [], []
    for _ in range(times):
        began, busy = time.perf_counter(), time.process_time()
        act()
        taken.append((time.perf_counter() - began) * 1000)
        worked.append((time.process_time() - busy) * 1000)
    return statistics.median(taken), min(taken), statistics.median(worked)


def measure(
    title: str, act: Callable[[], object], limit: float | None = None, times: int = 30
) -> float:
    """Measure, print, note what is beyond its limit; the median."""
    with CaptureQueriesContext(connection) as queries:
        act()
        asked = len(queries)
    middle, best, cpu = clocked(act, times)
    wanted = "" if limit is None else f"   limit {limit:g}"
    print(
        f"  {title:<44} {middle:9.2f} {best:9.2f} {cpu:9.2f}   {asked} queries{wanted}", flush=True
    )
    if limit is not None and middle > limit:
        failed.append(f"{connection.vendor}: {title}: {middle:.2f} ms, more than {limit:g}")
    return middle


def door(client: Client, path: str) -> Callable[[], object]:
    """Send a request through Django."""

    def ask() -> bytes:
        answer = client.get(f"/vm-tree/{path}")
        assert answer.status_code == 200, answer.content[:300]
        return answer.content

    return ask


def fetch_rows() -> object:
    """Just fetching the rows of all nodes, as Django gives them."""
    return list(Node.objects.active().values_list())


def fetch_raw() -> object:
    """Just fetching the rows of all nodes, without Django's conversions."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT * FROM vmtree_node WHERE removed_at IS NULL ORDER BY created_at, id")
        return cursor.fetchall()


def nested_against_rows(client: Client, title: str) -> None:
    """The nested tree beside the mere rows: at most three times as long."""
    measure(f"{title}: rows by Django", fetch_rows, times=10)
    plain = measure(f"{title}: rows by the cursor", fetch_raw, times=10)
    measure(f"{title}: pieces", lambda: json_rows.pieces_of(Node.objects.active()), times=10)
    measure(f"{title}: nested JSON at the door", door(client, "tree"), 3 * plain, times=10)


def run() -> None:
    from django.conf import settings

    client = Client(
        SERVER_NAME="localhost", headers={"authorization": f"Bearer {settings.ROOT_TOKEN}"}
    )
    print(f"\n{connection.vendor}   (ms: median, best, own CPU)")
    fill(SMALL, fleet_parent)
    nested_against_rows(client, "10,000")
    fill(CHAIN, lambda number: number - 1)
    nested_against_rows(client, "chain of 5,000")
    measure("chain of 5,000: ancestors of the last", door(client, f"vms/v{CHAIN - 1}/ancestors"))
    fill(LARGE, fleet_parent)
    leaf, top = f"v{LARGE - 1}", "v7"
    count = door(client, f"vms/{top}/descendants")().count(b'"vmId"')  # type: ignore[attr-defined]
    measure("100,000: ancestors", door(client, f"vms/{leaf}/ancestors"), 5)
    measure("100,000: children (10)", door(client, f"vms/{top}/children"), 5)
    measure(f"100,000: subtree of {count}", door(client, f"vms/{top}/descendants"), 15)
    measure("100,000: find by organ, 99 hits", door(client, "find/organ/rare"), 5)
    measure("100,000: flat, two levels", door(client, "tree?flat=true&depth=1"))
    measure("100,000: stats", door(client, "stats"))
    measure("100,000: page of 100", door(client, "vms?limit=100"))
    measure("100,000: page of 100 by a word in names", door(client, "vms?q=9999&limit=100"))
    measure("100,000: page of 100 by under: and organ:", door(client, "vms?q=under:v7+organ:rare"))
    measure("100,000: history of one", door(client, f"vms/{leaf}/history"))
    measure("100,000: panel", door(client, "_panel"))
    measure("100,000: nested JSON of all", door(client, "tree"), times=3)
    measure("100,000: all at an earlier time", door(client, "tree?at=2100-01-01"), times=3)


def main() -> None:
    chosen = sys.argv[1:] or ["sqlite", "postgresql"]
    for name in chosen:
        with {"sqlite": sqlite, "postgresql": postgresql}[name]():
            run()
    print("\n" + ("\n".join(failed) if failed else "all within their limits"))
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
