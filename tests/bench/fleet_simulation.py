"""Bench of a fleet that heartbeats: `python -m tests.bench.fleet_simulation [--minutes 10]`.

Each of 10,000 VMs is the real fleet agent with a folder of its own: it need not join, since its row
exists, checks its registration, and then ticks when the last response says so. All of them share
this process, so the times of heartbeats include what its threads wait for each other.
The processes are those of `up`, on a temporary data folder with SQLite.

Prints percentiles of heartbeats, the processor time of each component as a share of one core, the
sizes of database and write-ahead log each minute, and all problems of agents. Ends with exit code 1
if an agent had a problem, or the edge took a tenth of a core or more.
"""

from __future__ import annotations

import argparse
import heapq
import json
import os
import random
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from bootloader.fleet_agent.agent import FleetAgent
from bootloader.fleet_agent.home import Home, write_private
from bootloader.fleet_agent.root import RootClient
from tests.bench.heartbeats import NODE_TOKEN, child
from tests.bench.processes import cpu, resident
from tests.stack import Stack

# Agents that wait for a response at the same time.
THREADS = 32
# The agents start within this time, and nothing is measured for so long.
START_SECONDS = 60.0
MAX_EDGE_SHARE = 0.10
MB = 1 << 20


class Fleet:
    """Agents that tick when they are due, and what was measured of it."""

    def __init__(self, folder: Path, url: str, vms: int) -> None:
        """Prepare the agents with their folders; the first ticks are spread over the start."""
        now = time.monotonic()
        self.agents = [self._agent(folder, url, number) for number in range(vms)]
        self.due = [(now + random.uniform(0, START_SECONDS), each) for each in range(vms)]
        heapq.heapify(self.due)
        self.seconds: list[float] = []
        self.delays: list[float] = []
        self.problems: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._pool = ThreadPoolExecutor(THREADS)
        self._thread = threading.Thread(target=self._run)

    def _agent(self, folder: Path, url: str, number: int) -> FleetAgent:
        name = f"vm-{number:05d}"
        identity = {
            "VERS_INFRA_URL": url,
            "VERS_VM_ID": name,
            "VERS_AUTH_TOKEN": NODE_TOKEN % number,
            "REEF_ADDRESS": f"{name}.example",
            "REEF_ORGANS": "store,cron",
            "REEF_CAPABILITIES": "ssh",
        }
        home = Home(str(folder / name))
        write_private(home.identity_file, json.dumps(identity))
        return FleetAgent(home, lambda _text: None)

    def start(self) -> None:
        """Begin to tick, in threads."""
        self._thread.start()

    def stop(self) -> None:
        """Stop ticking."""
        self._stopping.set()
        self._thread.join()
        self._pool.shutdown()

    def take(self) -> tuple[list[float], list[float]]:
        """Return the times of heartbeats and the delays of ticks so far, and begin anew."""
        with self._lock:
            taken = self.seconds, self.delays
            self.seconds, self.delays = [], []
        return taken

    def note_request(self, method: str, path: str, seconds: float) -> None:
        """Note how long a request of an agent took."""
        if method == "POST" and path.endswith("/heartbeat"):
            with self._lock:
                self.seconds.append(seconds)

    def _run(self) -> None:
        while not self._stopping.is_set():
            now = time.monotonic()
            with self._lock:
                ready = []
                while self.due and self.due[0][0] <= now:
                    ready.append(heapq.heappop(self.due))
            for due, number in ready:
                tick = self._pool.submit(self._tick, due, number)
                tick.add_done_callback(self._note_failure)
            self._stopping.wait(0.005)

    def _tick(self, due: float, number: int) -> None:
        agent, began = self.agents[number], time.monotonic()
        pause = agent.tick()
        with self._lock:
            self.delays.append(began - due)
            if agent.problem:
                self.problems[agent.problem] += 1
            heapq.heappush(self.due, (time.monotonic() + pause, number))

    def _note_failure(self, tick: Future[None]) -> None:
        """Count an agent that has ended with an error."""
        if error := tick.exception():
            with self._lock:
                self.problems[f"agent ended: {error!r}"] += 1


def time_requests(fleet: Fleet) -> None:
    """Tell the fleet how long each request of an agent takes."""
    really_request: Any = RootClient.request_json

    def request_json(client: RootClient, method: str, path: str, *rest: Any) -> Any:
        began = time.perf_counter()
        try:
            return really_request(client, method, path, *rest)
        finally:
            fleet.note_request(method, path, time.perf_counter() - began)

    RootClient.request_json = request_json  # type: ignore[assignment, method-assign]


def at(fraction: float, values: list[float]) -> float:
    """Return a quantile in milliseconds."""
    return 1000 * sorted(values)[int(fraction * (len(values) - 1))] if values else 0.0


def file_sizes(stack: Stack) -> str:
    """Return the sizes of the database and of its log in words."""
    database = stack.data / "db.sqlite3"
    log = database.with_name("db.sqlite3-wal")
    log_bytes = log.stat().st_size if log.exists() else 0
    return f"database {database.stat().st_size / MB:.1f} MB, log {log_bytes / MB:.1f} MB"


def print_components(stack: Stack, used: dict[str, float], seconds: float) -> None:
    """Print the share of a core, and the memory, of each component."""
    memory = resident(stack)
    for name, busy in used.items():
        share = 100 * busy / seconds
        print(f"  {name:8} {share:6.2f} % of a core, {memory[name] / MB:7.1f} MB resident")


def measure(stack: Stack, fleet: Fleet, minutes: float) -> bool:
    """Let the fleet run so long, and print results; return whether they are good enough."""
    print(f"start: {file_sizes(stack)}", flush=True)
    fleet.start()
    time.sleep(START_SECONDS)
    fleet.take()
    before, own, began = cpu(stack), time.process_time(), time.monotonic()
    print(f"all have begun: {file_sizes(stack)}", flush=True)
    while (left := began + 60 * minutes - time.monotonic()) > 0:
        time.sleep(min(60.0, left))
        passed = (time.monotonic() - began) / 60
        print(f"{passed:5.1f} min: {len(fleet.seconds):,} beats, {file_sizes(stack)}", flush=True)
    seconds = time.monotonic() - began
    used = {name: busy - before[name] for name, busy in cpu(stack).items()}
    (beats, delays), own = fleet.take(), time.process_time() - own
    print(f"{len(beats) / seconds:.0f} heartbeats a second of {len(fleet.agents):,} VMs")
    print(f"heartbeat: p50 {at(0.5, beats):.1f} ms, p99 {at(0.99, beats):.1f} ms")
    print(
        f"           worst {at(1, beats):.1f} ms, p99 of the agents' own delay"
        f" {at(0.99, delays):.1f} ms"
    )
    print_components(stack, used, seconds)
    print(f"  {'(agents)':8} {100 * own / seconds:6.2f} % of a core")
    for problem, count in fleet.problems.most_common(10):
        print(f"{count} times: {problem}")
    share = used["edge"] / seconds
    print(f"edge: {100 * share:.1f} % of a core ({100 * MAX_EDGE_SHARE:.0f} % wanted)")
    return not fleet.problems and share < MAX_EDGE_SHARE


def main() -> None:
    """Parse arguments, start a reef in a temporary folder, and measure."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--vms", type=int, default=10_000)
    options = parser.parse_args()
    # The state files of the agents should not wait for the disk of the database.
    in_memory = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with (
        tempfile.TemporaryDirectory(prefix="reef-bench-") as folder,
        tempfile.TemporaryDirectory(prefix="reef-vms-", dir=in_memory) as homes,
        Stack(Path(folder)) as stack,
    ):
        os.environ["HOME"] = homes
        assert child(stack, "--child", "seed", "--vms", str(options.vms)).wait(120) == 0
        fleet = Fleet(Path(homes), f"http://127.0.0.1:{stack.port}", options.vms)
        time_requests(fleet)
        try:
            good = measure(stack, fleet, options.minutes)
        finally:
            fleet.stop()
    raise SystemExit(0 if good else 1)


if __name__ == "__main__":
    main()
