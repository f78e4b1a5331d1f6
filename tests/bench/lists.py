"""Bench of each order of each list: `python -m tests.bench.lists [FILE]`.

10,000 lieutenants with 200,000 sums of usage, 100,000 VMs below one another, in a SQLite file that
is filled if it does not exist yet. Each line: CPU time and time until the first byte (medians), the
number of queries, and the slowest query with the tables that it scans. CPU time of `LIMIT_MS` or
more ends the run with exit code 1.
"""

# Django must be set up before its models are imported.
# ruff: noqa: E402
from __future__ import annotations

import contextlib
import os
import statistics
import sys
import tempfile
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.settings")

import django

django.setup()

from django.core.management import call_command
from django.db import connection, connections
from django.test import Client

from lieutenants.lists.columns import COLUMNS as LIEUTENANT_COLUMNS
from lieutenants.models import Lieutenant
from lieutenants.states import Status
from lieutenants.usage.models import UsageSlot, slot_of
from reef_site.accounts.signin_links import make_operator
from reef_site.common import broker, clock
from reef_site.dashboard import tree_order, vm_list
from tests.bench.pages import Spy, first_byte
from tests.postgres import connected_to
from tests.vmtree.planted import plant

LIEUTENANTS, SLOTS, VMS = 10_000, 20, 100_000
BATCH = 5000
LIMIT_MS = 500
REPETITIONS = 3
LISTS = {
    "/lieutenants/_rows": LIEUTENANT_COLUMNS,
    "/fleet/vms/_rows": vm_list.COLUMNS,
    "/fleet/_tree": tree_order.COLUMNS,
    # A node with 10 children has 440 below it.
    "/fleet/_children/1": tree_order.COLUMNS,
}
FILTERS = {
    "/lieutenants/_rows": ("needs-me", "failed", "stalled", "model:a", "agent 77"),
    "/fleet/vms/_rows": ("silent", "unplaced", "under:vm-0", "agent 777"),
    "/fleet/_tree": ("silent", "agent"),
}


def fill() -> None:
    """Fill an empty database."""
    now = clock.now()
    plant(VMS)
    rows = [
        Lieutenant(
            name=f"agent {number}",
            role="does what it is told",
            host=f"host-{number % 7}",
            status=Status.values[number % 5],
            model=f"maker/model-{number % 11}",
            created_at=now - timedelta(minutes=number),
            last_activity_at=now - timedelta(seconds=number * 37 % 9973),
        )
        for number in range(LIEUTENANTS)
    ]
    Lieutenant.objects.bulk_create(rows, batch_size=BATCH)
    slots = [
        UsageSlot(
            lieutenant=row,
            slot=slot_of(now - timedelta(hours=hour)),
            provider="maker",
            model="m",
            calls=1,
            cost=(number * 31 + hour) % 97,
        )
        for number, row in enumerate(rows)
        for hour in range(SLOTS)
    ]
    UsageSlot.objects.bulk_create(slots, batch_size=BATCH)
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE")


def addresses() -> Iterator[str]:
    """Yield each list in each order, and with filters."""
    for path, columns in LISTS.items():
        for column in columns:
            if column.fields:
                yield f"{path}?sort={column.key}"
                yield f"{path}?sort=-{column.key}"
    yield f"/fleet/vms/_rows?sort=name&page={VMS // 100}"
    yield "/fleet/_tree?sort=name&open=" + ".".join(str(key) for key in range(1, 61))
    for path, words in FILTERS.items():
        for each in words:
            yield f"{path}?q={each}"


def main() -> bool:
    """Print a line for each list, slowest first; return whether all are within the limit."""
    client = Client(headers={"host": "localhost"})
    client.force_login(make_operator())
    print("     CPU    total  queries")
    lines = []
    for address in addresses():
        first_byte(client, address)
        spent = [first_byte(client, address) for _ in range(REPETITIONS)]
        cpu, wall = map(statistics.median, zip(*spent, strict=True))
        spy = Spy()
        with connection.execute_wrapper(spy):
            first_byte(client, address)
        lines.append((cpu, wall, address[:60], len(spy.queries), spy.slowest()))
    for cpu, wall, name, count, slowest in sorted(lines, reverse=True):
        print(f"{cpu:8.1f} {wall:8.1f} ms {count:3} {name:60} {slowest[:300]}")
    return all(cpu < LIMIT_MS for cpu, *_ in lines)


@contextlib.contextmanager
def database(path: Path) -> Iterator[None]:
    """Connect to this file; create and fill it if it is missing."""
    exists = path.exists()
    with connected_to({**connections.settings["default"], "NAME": str(path)}):
        call_command("migrate", verbosity=0)
        if not exists:
            fill()
        yield


if __name__ == "__main__":
    # There is no Redis.
    broker.publish = lambda *_: None
    with (
        tempfile.TemporaryDirectory() as folder,
        database(Path(sys.argv[1] if sys.argv[1:] else f"{folder}/lists.sqlite3")),
    ):
        sys.exit(0 if main() else 1)
