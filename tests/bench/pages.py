"""Bench of all pages and admin lists with many rows: `python -m tests.bench.pages [FILE [PART…]]`.

10,000 lieutenants, 100,000 VMs, 1,000,000 entries and other rows to match, in a SQLite file that is
filled if it does not exist yet; PART is a part of a route's name. Each line: CPU time and time
until the first byte through Django, as an operator who is signed in (medians), the number of
queries, and the slowest query with the tables that it scans. CPU time of 300 ms or more ends the
run with exit code 1: other work on the machine hardly changes it.
"""

# Django must be set up before its models are imported.
# ruff: noqa: E402
from __future__ import annotations

import contextlib
import gc
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.settings")

import django

django.setup()

from django.core.management import call_command
from django.db import connection, connections, models
from django.test import Client

from reef_site.accounts.signin_links import make_operator
from reef_site.common import broker, clock
from reef_site.dashboard import root_row
from registry.models import Watch
from tests.pages import admin_addresses, page_addresses
from tests.populations import Population, all_models
from tests.postgres import connected_to

LIMIT_MS = 300
REPETITIONS = 3
# So many rows of each kind are made one by one, the others are copies of these.
MADE = 1000
# Kinds that a person creates.
BY_HAND = 20
HAND_MADE = {
    *("activity.Subscriber", "bootloader.OwnProfile", "bootloader.SshHost", "bootloader.HostClaim"),
    *("rules.Rule", "lieutenants.DataFolder", "lieutenants.LifeSign", "lieutenants.UnknownAgent"),
    # These are removed after a while.
    "vmtree.Snapshot",
    *("vmtree.OperatorToken", "bootloader.JoinRefusal", "bootloader.ProfileFile"),
    *("lists.SavedFilter", "lists.BulkRun"),
}
COUNTS = {
    "activity.Delivery": 200_000,
    "audit.Record": 300_000,
    "bootloader.BootReport": 100_000,
    "bootloader.Finding": 20_000,
    "bootloader.JoinToken": 50_000,
    "bootloader.LogLine": 300_000,
    "bootloader.Machine": 50_000,
    "bootloader.Provisioning": 50_000,
    "eventlog.Event": 1_000_000,
    "lieutenants.Answer": 200_000,
    "lieutenants.Entry": 1_000_000,
    "lieutenants.Lieutenant": 10_000,
    "lieutenants.Message": 200_000,
    "lieutenants.Move": 200_000,
    "lieutenants.Process": 50_000,
    "lieutenants.Question": 20_000,
    "lieutenants.Usage": 300_000,
    "operations.Job": 10_000,
    "operations.Step": 200_000,
    "registry.Gap": 100_000,
    "registry.VM": 100_000,
    "rules.Firing": 100_000,
    "versconfig.Version": 20_000,
    "vmtree.Node": 100_000,
    "vmtree.NodeToken": 100_000,
    "vmtree.Revision": 200_000,
}
# Columns of copies that must differ, by their names: expressions of the row's number.
NUMBERED = {
    "vm_id": "'vm-' || n",
    "name": "'name ' || n",
    "subject": "'vm-' || n",
    "digest": "'digest ' || n",
    "file": "'file ' || n",
    "event_number": "n",
}


def fill() -> None:
    """Fill an empty database."""
    # Some rows belong to an account.
    make_operator()
    Population().grow(lambda model: BY_HAND if model._meta.label in HAND_MADE else MADE)
    with connection.cursor() as cursor:
        for model in all_models():
            _copy(cursor, model, COUNTS.get(model._meta.label, 0))
        # Of each hundred VMs, one is silent.
        cursor.execute(
            "UPDATE registry_vm SET late_after = '2099-01-01 00:00:00',"
            " silent_after = '2099-01-01 00:00:00' WHERE id NOT LIKE '%00'"
        )
        cursor.execute("ANALYZE")


def _copy(cursor: Any, model: type[models.Model], count: int) -> None:
    """Copy the rows of a kind until there are so many."""
    made = model._default_manager.count()
    fields = [
        each for each in model._meta.concrete_fields if not isinstance(each, models.AutoField)
    ]
    columns = ", ".join(f'"{each.column}"' for each in fields)
    values = ", ".join(_copied(each) for each in fields)
    table, key = model._meta.db_table, model._meta.pk.column
    cursor.execute(
        f"WITH RECURSIVE numbers(n) AS"
        f" (SELECT {made} UNION ALL SELECT n + 1 FROM numbers WHERE n + 1 < {count}),"
        f' made AS (SELECT *, row_number() OVER (ORDER BY {key}) - 1 AS original FROM "{table}")'
        f' INSERT INTO "{table}" ({columns}) SELECT {values} FROM numbers'
        f" JOIN made ON made.original = n % {made} WHERE n < {count}"
    )


def _copied(field: models.Field[Any, Any]) -> str:
    """Return the SQL expression of a column in row `n`, which is a copy of a row of `made`."""
    label, column = field.model._meta.label, f'made."{field.column}"'
    if field.is_relation:
        if field.related_model is field.model:
            return f"CASE WHEN {column} IS NULL THEN NULL ELSE n / 10 + 1 END"
        return "NULL" if label == "bootloader.Provisioning" else column
    if label == "lieutenants.Process" and field.name == "ended_at":
        return "made.started_at"
    if field.name == "machine_id":
        return "'machine ' || n"
    if field.primary_key:
        return "'vm-' || n" if label == "registry.VM" else "printf('%026d', n)"
    if field.name in NUMBERED:
        return NUMBERED[field.name]
    if isinstance(field, models.DateTimeField) and field.name != "expires_at":
        return f"strftime('%Y-%m-%d %H:%M:%S', {column}, '+' || n || ' seconds')"
    return column


class Spy:
    """Records the queries of a request: duration in ms, SQL and parameters."""

    def __init__(self) -> None:
        self.queries: list[tuple[float, str, Any]] = []

    def __call__(self, execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        start = time.perf_counter()
        try:
            return execute(sql, params, many, context)
        finally:
            self.queries.append(((time.perf_counter() - start) * 1000, sql, params))

    def slowest(self) -> str:
        """Return duration, scanned tables and beginning of the slowest query."""
        ms, sql, params = max(self.queries, key=lambda query: query[0])
        with connection.cursor() as cursor:
            cursor.execute(f"EXPLAIN QUERY PLAN {sql}", params)
            steps = [row[3] for row in cursor.fetchall()]
        scans = [each for each in steps if each.startswith("SCAN") or "TEMP B-TREE" in each]
        return f"{ms:7.1f} ms {'; '.join(scans)[:120] or 'by index'} | {' '.join(sql.split())}"


def first_byte(client: Client, address: str) -> tuple[float, float]:
    """Return the milliseconds of CPU and in all until a page's first byte; zero for an action."""
    # It is cached for a moment.
    root_row.forget()
    start, busy = time.perf_counter(), time.process_time()
    response = client.get(address)
    assert response.status_code in (200, 405), (address, response.status_code)
    if response.streaming:
        next(iter(response), b"")
    spent = (time.process_time() - busy) * 1000, (time.perf_counter() - start) * 1000
    response.close()
    return spent if response.status_code == 200 else (0.0, 0.0)


def main(words: list[str]) -> bool:
    """Print a line for each page, slowest first; return whether all are within the limit."""
    client = Client(headers={"host": "localhost"})
    client.force_login(make_operator())
    Watch.objects.update_or_create(
        pk=1,
        defaults={
            "up_since": clock.now() - timedelta(days=1),
            "door_at": clock.now() + timedelta(hours=1),
        },
    )
    # As the web process does at its start.
    gc.collect()
    gc.freeze()
    print("     CPU    total  queries")
    lines = []
    for name, address in (page_addresses() | admin_addresses()).items():
        if words and not any(word in name for word in words):
            continue
        if not any(first_byte(client, address)):
            continue
        spent = [first_byte(client, address) for _ in range(REPETITIONS)]
        cpu, wall = map(statistics.median, zip(*spent, strict=True))
        spy = Spy()
        with connection.execute_wrapper(spy):
            first_byte(client, address)
        lines.append((cpu, wall, name, len(spy.queries), spy.slowest()))
    for cpu, wall, name, count, slowest in sorted(lines, reverse=True):
        print(f"{cpu:8.1f} {wall:8.1f} ms {count:3} {name:45} {slowest[:300]}")
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
    with tempfile.TemporaryDirectory() as folder:
        file = Path(sys.argv[1] if sys.argv[1:] else f"{folder}/pages.sqlite3")
        with database(file):
            sys.exit(0 if main(sys.argv[2:]) else 1)
