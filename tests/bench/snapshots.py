"""Bench of snapshots: `python -m tests.bench.snapshots [sqlite|postgresql]`, both if none is named.

Four processes write to a fleet of 100,000 nodes and 10,000 registered VMs while snapshots are
taken, verified, compared and restored: beats as the edge writes them, registrations, and two that
rename VMs of the tree. While a snapshot is restored the latter register, too, for a tree that
changes is not restored. Of each phase: how many changes there were, and how long the slowest took
(p99, longest). "Held up" is the longest without the time in which the writer itself worked or
stood in line for a processor, so what it waited for others. A snapshot must be of one moment: a
VM's name is that of its newest revision. If anything but the restore holds a writer up for 100 ms
longer than without it, the restore for 250 ms, or if a snapshot is of several moments, the exit
code is 1. Other work on the machine makes the figures worse; the load is printed.
"""

# Django must be set up before its models are imported.
# ruff: noqa: E402
from __future__ import annotations

import os
import random
import signal
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.settings")
# No Redis listens at this address, and no writer waits for one.
os.environ.setdefault("REDIS_URL", "unix:///nonexistent/redis.sock")

import django

django.setup()

from django.conf import settings
from django.db import connection

from reef_site.common import broker
from registry import fast_writes, heartbeat_bodies
from registry import services as registry
from registry.models import VM
from registry.services import Registration
from tests.bench.tree import LARGE, fill, fleet_parent, postgresql, sqlite
from vmtree import services, snapshots
from vmtree.services import NodeChange
from vmtree.snapshots import files

VMS, PAUSE, LONGEST_MS, LONGEST_RESTORE_MS = 10_000, 0.003, 100.0, 250.0
TREE = ("beats", "registrations", "tree", "tree")
QUIET_TREE = ("beats", "beats", "registrations", "registrations")
TORN = """
    SELECT count(*) FROM nodes AS n JOIN revisions AS r ON r.vm_id = n.vm_id
    WHERE r.id = (SELECT max(id) FROM revisions WHERE vm_id = n.vm_id) AND r.name <> n.name
"""
Waits = list["Wait"]
failed: list[str] = []


class Wait(NamedTuple):
    """A change: its start, its duration in ms, and how many ms of that it waited."""

    at: float
    ms: float
    held: float


def busy_ms(pids: list[int]) -> float:
    """Return how many ms these processes ran or waited for a processor."""
    found = 0
    for pid in pids:
        worked, in_line, _ = Path(f"/proc/{pid}/schedstat").read_text().split()
        found += int(worked) + int(in_line)
    return found / 1e6


def processes() -> list[int]:
    """Return this process, and the database server's process that works for it."""
    if connection.vendor == "sqlite":
        return [os.getpid()]
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        return [os.getpid(), cursor.fetchone()[0]]


# -- writers -----------------------------------------------------------------------------------


def send_heartbeat(chance: random.Random, _began: float) -> None:
    """Write heartbeats like the edge."""
    said = [heartbeat_bodies.Heartbeat(f"vm-{chance.randrange(VMS)}") for _ in range(32)]
    fast_writes.write(
        lambda _: None, [fast_writes.WriteRequest(None, [each], True) for each in said]
    )


def register(chance: random.Random, began: float) -> None:
    """Register a VM again under another name."""
    vm_id = f"vm-{chance.randrange(VMS)}"
    registry.register(Registration(vm_id, f"{vm_id} {began}", "worker", "::1", "bench"))


def rename(chance: random.Random, began: float) -> None:
    """Rename a VM of the tree, which writes a revision."""
    vm_id = f"v{chance.randrange(1, LARGE)}"
    services.change(vm_id, NodeChange(name=f"{vm_id} {began}"), by="bench")


ACTS = {"beats": send_heartbeat, "registrations": register, "tree": rename}


def write_until_end(log: Path, act: Callable[[random.Random, float], None], seed: int) -> None:
    """Write until the end, and print a line for each change."""
    pids, chance = processes(), random.Random(seed)
    with log.open("w") as out:
        while True:
            began, busy = time.time(), busy_ms(pids)
            act(chance, began)
            ms = (time.time() - began) * 1000
            out.write(f"{began} {ms} {max(0, ms - busy_ms(pids) + busy)}\n")
            out.flush()
            time.sleep(PAUSE)


class Writers:
    """Writer processes that end with the `with` block."""

    def __init__(self, folder: Path, names: tuple[str, ...]) -> None:
        self.names = names
        self.logs = [folder / f"writer-{number}" for number in range(len(names))]
        self.pids: list[int] = []

    def __enter__(self) -> Writers:
        connection.close()
        for number, (log, name) in enumerate(zip(self.logs, self.names, strict=True)):
            if not (pid := os.fork()):
                write_until_end(log, ACTS[name], number)
            self.pids.append(pid)
        return self

    def __exit__(self, *_: object) -> None:
        for pid in self.pids:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)

    def changes_between(self, begin: float, end: float) -> Waits:
        """Return the changes that were in progress in this time."""
        lines = [line.split() for log in self.logs for line in log.read_text().splitlines()[:-1]]
        waits = [Wait(*map(float, line)) for line in lines]
        return [each for each in waits if each.at < end and each.at + each.ms / 1000 > begin]

    def during(self, what: str, act: Callable[[], Any]) -> tuple[Any, float]:
        """Print a line with the result, and how many ms a change was held up at most."""
        began = time.time()
        result = act()
        # Changes delayed until the end are recorded a little later.
        ended = time.time()
        time.sleep(0.5)
        waits = self.changes_between(began, ended)
        spent, held = sorted(each.ms for each in waits), max(each.held for each in waits)
        p99, rate = spent[int(len(spent) * 0.99)], len(spent) / (ended - began)
        print(
            f"{what:28} {ended - began:6.2f} s   changes {rate:4.0f}/s   p99 {p99:6.1f} ms   "
            f"longest {spent[-1]:6.1f} ms   held up {held:6.1f} ms",
            flush=True,
        )
        return result, held


def check(snapshot: Any) -> None:
    """Check that the rows of the snapshot are consistent."""
    file = sqlite3.connect(files.path_of(snapshot.file))
    torn, nodes = file.execute(TORN).fetchone()[0], snapshot.counts["nodes"]
    print(f"    {snapshot.counts}, {snapshot.size >> 20} MB, of another moment: {torn}")
    if torn or nodes != LARGE:
        failed.append(f"{torn} rows of another moment, {nodes} nodes")


def plant() -> None:
    """Create a large tree with VMs that send heartbeats."""
    fill(LARGE, fleet_parent)
    vms = [VM(id=f"vm-{n}", name="n", role="worker", registered_by="b") for n in range(VMS)]
    for vm in vms:
        vm.seen(vm.last_seen)
    VM.objects.bulk_create(vms, batch_size=1000)


def limit(what: str, held: float, most: float) -> None:
    if held > most:
        failed.append(f"{connection.vendor}, {what}: a writer was held up for {held:.0f} ms")


def run(name: str) -> None:
    """Run the bench on a database."""
    print(f"-- {name}")
    plant()
    folder = Path(tempfile.mkdtemp(prefix="reef-bench-"))
    settings.DATA_DIR = folder
    began = time.time()
    first = snapshots.take(by="bench").snapshot
    print(f"{'snapshot, nobody writes':28} {time.time() - began:6.2f} s")
    check(first)
    with Writers(folder, TREE) as writers:
        time.sleep(2)
        _, usual = writers.during("no snapshot", lambda: time.sleep(5))
        for _ in range(3):
            made, held = writers.during("snapshot", lambda: snapshots.take(by="bench").snapshot)
            check(made)
            limit("snapshot", held, usual + LONGEST_MS)
        for what, act in (
            ("verify", lambda: snapshots.verify(made, by="bench")),
            ("compare with now", lambda: snapshots.compare(first, None)),
        ):
            _, held = writers.during(what, act)
            limit(what, held, usual + LONGEST_MS)
    with Writers(folder, QUIET_TREE) as writers:
        time.sleep(2)
        _, usual = writers.during("no snapshot", lambda: time.sleep(5))
        plan = snapshots.plan(first, by="bench")
        _, held = writers.during(
            f"restore of {plan.comparison.counts['renamed']} changes",
            lambda: snapshots.restore(first, confirm=plan.confirm, by="bench"),
        )
        limit("restore", held, usual + LONGEST_RESTORE_MS)


if __name__ == "__main__":
    broker.client.cache_clear()
    wanted = sys.argv[1:] or ["sqlite", "postgresql"]
    for each in wanted:
        with {"sqlite": sqlite, "postgresql": postgresql}[each]():
            run(each)
    print(f"load: {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors")
    for problem in failed:
        print(f"FAILED: {problem}")
    sys.exit(bool(failed))
