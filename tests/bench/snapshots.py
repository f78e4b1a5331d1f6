"""Bench of snapshots: `python -m tests.bench.snapshots [sqlite|postgresql]`, both if none is named.

100,000 nodes with their DNA and history while another process renames VMs, one after the other.
Prints the seconds of each step and the longest time that the writer took for one change. Of that
`held up` is when neither the writer nor its server worked or stood in line for a processor, which
other programs on the machine may cause: a lock, or the disk. The rows of each snapshot must be of
one moment: a VM's name is that of its newest revision. If a snapshot holds a writer up for 100 ms,
or is of several moments, the exit code is 1.
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
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.settings")

import django

django.setup()

from django.conf import settings
from django.db import connection

from tests.bench.tree import LARGE, fill, fleet_parent, postgresql, sqlite
from vmtree import services, snapshots
from vmtree.services import Change
from vmtree.snapshots import files

PAUSE, LONGEST_MS = 0.003, 100.0
TORN = """
    SELECT count(*) FROM nodes AS n JOIN revisions AS r ON r.vm_id = n.vm_id
    WHERE r.id = (SELECT max(id) FROM revisions WHERE vm_id = n.vm_id) AND r.name <> n.name
"""
Waits = list["Wait"]
failed: list[str] = []


class Wait(NamedTuple):
    """One change: when it began, how many ms it took, and was held up."""

    at: float
    ms: float
    held: float


def busy_ms(pids: list[int]) -> float:
    """How long these processes have worked, or have stood in line for a processor."""
    found = 0
    for pid in pids:
        worked, in_line, _ = Path(f"/proc/{pid}/schedstat").read_text().split()
        found += int(worked) + int(in_line)
    return found / 1e6


def processes() -> list[int]:
    """This one, and the server's that works for it."""
    if connection.vendor == "sqlite":
        return [os.getpid()]
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        return [os.getpid(), cursor.fetchone()[0]]


def write_on(log: Path) -> None:
    """Rename VMs until the end; a line for each."""
    pids, chance = processes(), random.Random(1)
    with log.open("w") as out:
        while True:
            vm_id, began, busy = f"v{chance.randrange(1, LARGE)}", time.time(), busy_ms(pids)
            services.change(vm_id, Change(name=f"{vm_id} {began}"), by="bench")
            ms = (time.time() - began) * 1000
            out.write(f"{began} {ms} {max(0, ms - busy_ms(pids) + busy)}\n")
            out.flush()
            time.sleep(PAUSE)


class Writer:
    """A process that writes; it ends with the `with` block."""

    def __init__(self, folder: Path) -> None:
        self.log = folder / "writer"
        self.pid = 0

    def __enter__(self) -> Writer:
        connection.close()
        self.pid = os.fork()
        if not self.pid:
            write_on(self.log)
        return self

    def __exit__(self, *_: object) -> None:
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)

    def between(self, begin: float, end: float) -> Waits:
        """The changes that were under way in this time."""
        lines = [line.split() for line in self.log.read_text().splitlines()[:-1]]
        waits = [Wait(*map(float, line)) for line in lines]
        return [each for each in waits if each.at < end and each.at + each.ms / 1000 > begin]


def report(what: str, waits: Waits, seconds: float) -> float:
    """Print one line; for how many ms a change was held up at most."""
    spent, held = sorted(each.ms for each in waits), max(each.held for each in waits)
    p99, rate = spent[int(len(spent) * 0.99)], len(spent) / seconds
    print(
        f"{what:28} {seconds:6.2f} s   changes {rate:4.0f}/s   p99 {p99:6.1f} ms   "
        f"longest {spent[-1]:6.1f} ms   held up {held:6.1f} ms",
        flush=True,
    )
    return held


def timed(act: Any) -> tuple[Any, float, float]:
    """What it gave, and when it began and ended."""
    began = time.time()
    return act(), began, time.time()


def check(snapshot: Any) -> None:
    """Its rows are of one moment."""
    file = sqlite3.connect(files.path_of(snapshot.file))
    torn, nodes = file.execute(TORN).fetchone()[0], snapshot.counts["nodes"]
    print(f"    {snapshot.counts}, {snapshot.size >> 20} MB, of another moment: {torn}")
    if torn or nodes != LARGE:
        failed.append(f"{torn} rows of another moment, {nodes} nodes")


def run(name: str) -> None:
    """One database."""
    print(f"-- {name}")
    fill(LARGE, fleet_parent)
    folder = Path(tempfile.mkdtemp(prefix="reef-bench-"))
    settings.DATA_DIR = folder
    quiet, began, ended = timed(lambda: snapshots.take(by="bench").snapshot)
    print(f"{'snapshot, nobody writes':28} {ended - began:6.2f} s")
    check(quiet)
    with Writer(folder) as writer:
        time.sleep(2)
        _, began, ended = timed(lambda: time.sleep(4))
        report("no snapshot", writer.between(began, ended), ended - began)
        for _ in range(3):
            made, began, ended = timed(lambda: snapshots.take(by="bench").snapshot)
            held = report("snapshot", writer.between(began, ended), ended - began)
            check(made)
            if held > LONGEST_MS:
                failed.append(f"{name}: a writer was held up for {held:.0f} ms")
    found, began, ended = timed(lambda: snapshots.compare(quiet, None))
    print(f"{'compare with now':28} {ended - began:6.2f} s   {found.counts}")
    plan = snapshots.plan(quiet, by="bench")
    _, began, ended = timed(lambda: snapshots.restore(quiet, confirm=plan.confirm, by="bench"))
    print(f"{'restore':28} {ended - began:6.2f} s")


if __name__ == "__main__":
    wanted = sys.argv[1:] or ["sqlite", "postgresql"]
    for each in wanted:
        with {"sqlite": sqlite, "postgresql": postgresql}[each]():
            run(each)
    print(f"load: {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors")
    for problem in failed:
        print(f"FAILED: {problem}")
    sys.exit(bool(failed))
