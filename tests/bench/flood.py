"""Bench of floods: `python -m tests.bench.flood [SCENARIO…] [--seconds 20]`.

One agent floods, beside nine that stream ten words a second. For each scenario, and for the same
without a flood: the time from a word's printing to its committed row (polled every 20 ms), memory
of the loud agent's keeper and of the worker, the journal's room on the disk, new rows, and the
sizes of database and log. The processes are those of `up`, with SQLite and stand-in agents.
Ends with exit code 1 if the words of others are more than a second later than without a flood.
"""

from __future__ import annotations

import argparse
import re
import sqlite3
import tempfile
import time
from contextlib import closing
from pathlib import Path

from tests.bench.processes import resident
from tests.stack import Stack

CALM = 9
WORDS_PER_SECOND = 10
MAX_DELAY_MS = 1000.0
MB = 1 << 20
# What the loud agent is asked: counts are for one second, or for the whole run.
SCENARIOS = {
    "none": "",
    # Events that are never left out, and such as are.
    "events": "FLOOD turn_start {events} 20000",
    "notices": "FLOOD notify {events} 20000",
    # 2 GB: output of a running tool, and results.
    "output": "FLOOD output 20000 2000",
    "results": "FLOOD results 20000 2000",
    "line": "BIGLINE 50000000",
}


class Watcher:
    """Polls a stack's database for the words of calm agents."""

    def __init__(self, stack: Stack) -> None:
        self.file = stack.data / "db.sqlite3"
        self.last = self._count("SELECT coalesce(max(id), 0) FROM lieutenants_chunk")
        self.lags: list[float] = []

    def _count(self, sql: str) -> int:
        with closing(sqlite3.connect(self.file)) as database:
            return int(database.execute(sql).fetchone()[0])

    def rows(self) -> int:
        """Return how many entries there are."""
        return self._count("SELECT count(*) FROM lieutenants_entry")

    def watch(self, seconds: float) -> None:
        """Collect the lags of words for so long."""
        end = time.monotonic() + seconds
        with closing(sqlite3.connect(self.file)) as database:
            while time.monotonic() < end:
                sql = "SELECT id, text FROM lieutenants_chunk WHERE id > ? ORDER BY id"
                found = database.execute(sql, [self.last]).fetchall()
                now = time.time() * 1000
                for self.last, text in found:
                    self.lags += [now - int(at) for at in re.findall(r"\bt(\d{13}) ", text)]
                time.sleep(0.02)

    def sizes(self) -> str:
        log = self.file.with_name("db.sqlite3-wal")
        return f"database {size_of(self.file)}, log {size_of(log)}"


def size_of(path: Path) -> str:
    return f"{(path.stat().st_blocks * 512 if path.exists() else 0) / MB:.1f} MB"


def keeper_of(stack: Stack, name: str) -> tuple[Path, float]:
    """Return the folder of a lieutenant's run, and the most memory of its keeper in MB."""
    process = stack.get(name)["id"]
    (note,) = stack.data.glob(f"lieutenants/{process}/runs/*/keeper.json")
    pid = re.search(r'"keeper_pid": ?(\d+)', note.read_text())
    assert pid
    lines = Path(f"/proc/{pid[1]}/status").read_text().splitlines()
    peak = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
    return note.parent, peak / 1024


def at(fraction: float, values: list[float]) -> float:
    return sorted(values)[int(fraction * (len(values) - 1))] if values else float("inf")


def run(scenario: str, seconds: int) -> float:
    """Run one scenario on a stack of its own; return the 99th percentile of lags in ms."""
    with tempfile.TemporaryDirectory(prefix="reef-bench-") as folder, Stack(Path(folder)) as stack:
        calm = [f"calm-{number}" for number in range(CALM)]
        for name in ["loud", *calm]:
            stack.create(name)
        watcher = Watcher(stack)
        before = watcher.rows()
        for name in calm:
            count = seconds * WORDS_PER_SECOND
            assert stack.send(name, f"CLOCK {count} {WORDS_PER_SECOND}").status_code == 200
        if asked := SCENARIOS[scenario].format(events=20_000 * seconds):
            assert stack.send("loud", asked).status_code == 200
        watcher.watch(seconds + 3)
        directory, peak = keeper_of(stack, "loud")
        lags, worker = watcher.lags, resident(stack)["worker"] / MB
        print(
            f"{scenario:8} {len(lags)} words of {CALM * count}: p50 {at(0.5, lags):.0f} ms,"
            f" p99 {at(0.99, lags):.0f} ms, worst {at(1, lags):.0f} ms\n"
            f"         keeper at most {peak:.0f} MB, worker {worker:.0f} MB, journal"
            f" {size_of(directory / 'journal.jsonl')}, {watcher.rows() - before} new entries,"
            f" {watcher.sizes()}",
            flush=True,
        )
        return at(0.99, lags)


def main() -> None:
    """Run all scenarios, or those that are named."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("scenarios", nargs="*", default=list(SCENARIOS)[1:])
    parser.add_argument("--seconds", type=int, default=20)
    options = parser.parse_args()
    usual = run("none", options.seconds)
    late = [name for name in options.scenarios if run(name, options.seconds) > usual + MAX_DELAY_MS]
    raise SystemExit(f"too late: {', '.join(late)}" if late else 0)


if __name__ == "__main__":
    main()
