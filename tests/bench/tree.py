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
    """Provide a new file with our tables."""
    with tempfile.TemporaryDirectory() as folder:
        settings = {**connections.settings["default"], "NAME": str(Path(folder) / "bench.sqlite3")}
        with connected_to(settings):
            call_command("migrate", verbosity=0)
            yield


@contextlib.contextmanager
def postgresql() -> Iterator[None]:
    """Provide a new server with our tables."""
    cluster = Cluster(Path(find_postgresql() or "/usr/lib/postgresql"))
    try:
        with connected_to(cluster.settings(cluster.create())):
            call_command("migrate", verbosity=0)
            yield
    finally:
        cluster.close()


def fill(count: int, parent_of: Callable[[int], int | None]) -> int:
    """Create `count` nodes v0, v1, …, of which every 1000th has the organ `rare`; return the first
    key.
    """
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
    """Return a node's parent: root; 100 lieutenants; below each, VMs in three levels of three."""
    if number <= 100:
        return 0
    rank = number - 101
    lieutenant, place = rank % 100 + 1, rank // 100
    if place < 10:
        return lieutenant
    return 101 + ((place - 10) // 3) * 100 + (lieutenant - 1)


def measure_times(act: Callable[[], object], times: int) -> tuple[float, float, float]:
    """Return median and best of so many runs, and the median of the process's CPU time, in ms.

    A first run is not counted.
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
    """Measure, print, record a value beyond its limit, and return the median."""
    with CaptureQueriesContext(connection) as queries:
        act()
        asked = len(queries)
    middle, best, cpu = measure_times(act, times)
    wanted = "" if limit is None else f"   limit {limit:g}"
    print(
        f"  {title:<44} {middle:9.2f} {best:9.2f} {cpu:9.2f}   {asked} queries{wanted}", flush=True
    )
    if limit is not None and middle > limit:
        failed.append(f"{connection.vendor}: {title}: {middle:.2f} ms, more than {limit:g}")
    return middle


def client_of(client: Client, path: str) -> Callable[[], object]:
    """Send a request through Django."""

    def ask() -> bytes:
        answer = client.get(f"/vm-tree/{path}")
        assert answer.status_code == 200, answer.content[:300]
        return answer.content

    return ask


def fetch_rows() -> object:
    """Fetch the rows of all nodes, as Django converts them."""
    return list(Node.objects.active().values_list())


def fetch_raw() -> object:
    """Fetch the rows of all nodes, without Django's conversions."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT * FROM vmtree_node WHERE removed_at IS NULL ORDER BY created_at, id")
        return cursor.fetchall()


def compare_tree_with_rows(client: Client, title: str) -> None:
    """Compare the nested tree with fetching its rows: at most three times as long."""
    measure(f"{title}: rows by Django", fetch_rows, times=10)
    plain = measure(f"{title}: rows by the cursor", fetch_raw, times=10)
    measure(f"{title}: pieces", lambda: json_rows.pieces_of(Node.objects.active()), times=10)
    measure(f"{title}: nested JSON at the door", client_of(client, "tree"), 3 * plain, times=10)


def run() -> None:
    from django.conf import settings

    client = Client(
        SERVER_NAME="localhost", headers={"authorization": f"Bearer {settings.ROOT_TOKEN}"}
    )
    print(f"\n{connection.vendor}   (ms: median, best, own CPU)")
    fill(SMALL, fleet_parent)
    compare_tree_with_rows(client, "10,000")
    fill(CHAIN, lambda number: number - 1)
    compare_tree_with_rows(client, "chain of 5,000")
    measure(
        "chain of 5,000: ancestors of the last", client_of(client, f"vms/v{CHAIN - 1}/ancestors")
    )
    fill(LARGE, fleet_parent)
    leaf, top = f"v{LARGE - 1}", "v7"
    count = client_of(client, f"vms/{top}/descendants")().count(b'"vmId"')  # type: ignore[attr-defined]
    measure("100,000: ancestors", client_of(client, f"vms/{leaf}/ancestors"), 5)
    measure("100,000: children (10)", client_of(client, f"vms/{top}/children"), 5)
    measure(f"100,000: subtree of {count}", client_of(client, f"vms/{top}/descendants"), 15)
    measure("100,000: find by organ, 99 hits", client_of(client, "find/organ/rare"), 5)
    measure("100,000: flat, two levels", client_of(client, "tree?flat=true&depth=1"))
    measure("100,000: stats", client_of(client, "stats"))
    measure("100,000: page of 100", client_of(client, "vms?limit=100"))
    measure("100,000: page of 100 by a word in names", client_of(client, "vms?q=9999&limit=100"))
    measure(
        "100,000: page of 100 by under: and organ:", client_of(client, "vms?q=under:v7+organ:rare")
    )
    measure("100,000: history of one", client_of(client, f"vms/{leaf}/history"))
    measure("100,000: panel", client_of(client, "_panel"))
    measure("100,000: nested JSON of all", client_of(client, "tree"), times=3)
    measure("100,000: all at an earlier time", client_of(client, "tree?at=2100-01-01"), times=3)


def main() -> None:
    chosen = sys.argv[1:] or ["sqlite", "postgresql"]
    for name in chosen:
        with {"sqlite": sqlite, "postgresql": postgresql}[name]():
            run()
    print("\n" + ("\n".join(failed) if failed else "all within their limits"))
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
