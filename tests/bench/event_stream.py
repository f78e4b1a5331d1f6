"""Bench of the event log's streams: `python -m tests.bench.event_stream [clients] [seconds]`.

Opens 1,000 streams of one edge, records 20 events a second for 30 s, and measures for each event
and client how long it took from its recording until the client had it. Then the edge is killed, and
all clients continue with the number that they have seen. Memory is that of the edge process for
each stream. A 95th percentile over 250 ms, or an event that a client misses or gets twice, ends the
run with exit code 1.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import uvloop

from tests.stack import TOKEN, Stack
from tests.waiting import until

EVENTS_A_SECOND = 20
LIMIT_MS = 250.0

# Runs in a process of its own, as a worker would. argv: seconds, events a second.
RECORD = """
import sys, time
import django
django.setup()
from reef_site.common import broker
from reef_site.common.eventlog import recording
seconds, rate = float(sys.argv[1]), float(sys.argv[2])
began = time.monotonic()
for number in range(int(seconds * rate)):
    time.sleep(max(0.0, began + number / rate - time.monotonic()))
    detail = {"sent": time.time_ns()}
    recording.record("vm.bench", f"vm-{number}", actor="bench", detail=detail)
broker.flush()
"""


class Client(asyncio.Protocol):
    """One stream: it notes lags and numbers, and reconnects when it is cut off."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.last = ""
        self.numbers: list[int] = []
        self.lags: list[float] = []
        self.is_open = False
        self._rest = b""
        self._transport: asyncio.BaseTransport | None = None
        self._reconnecting: asyncio.Task[None] | None = None
        self.is_over = False

    async def connect(self) -> None:
        while not self.is_over:
            try:
                await asyncio.get_running_loop().create_connection(
                    lambda: self, "127.0.0.1", self.port
                )
            except OSError:
                await asyncio.sleep(0.3)
            else:
                return

    def connection_made(self, transport: Any) -> None:
        self._transport, self._rest = transport, b""
        lines = [
            "GET /events?kind=vm HTTP/1.1",
            f"Host: 127.0.0.1:{self.port}",
            f"Authorization: Bearer {TOKEN}",
            "Accept: text/event-stream",
            *([f"Last-Event-ID: {self.last}"] if self.last else []),
        ]
        transport.write("\r\n".join([*lines, "", ""]).encode())

    def data_received(self, data: bytes) -> None:
        now = time.time_ns()
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            if line.startswith(b"id: "):
                self.last = line[4:].decode()
                self.is_open = True
            elif line.startswith(b'data: {"id":'):
                self.numbers.append(int(self.last))
                sent = line.partition(b'"sent":')[2].partition(b"}")[0]
                self.lags.append((now - int(sent)) / 1e6)

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_open = False
        if not self.is_over:
            self._reconnecting = asyncio.create_task(self.connect())

    def close(self) -> None:
        self.is_over = True
        if self._transport:
            self._transport.close()


def memory_kib(pid: int) -> int:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def until_true(check: Callable[[], bool], seconds: float = 120.0) -> None:
    end = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < end, "it takes too long"
        await asyncio.sleep(0.05)


def are_open(clients: Sequence[Client]) -> bool:
    return all(each.is_open for each in clients)


def recorder(stack: Stack, seconds: float) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", RECORD, str(seconds), str(EVENTS_A_SECOND)]
    return subprocess.Popen(command, env=stack.env, cwd=stack.checkout)


async def play(stack: Stack, count: int, seconds: float) -> bool:
    edge = stack.processes["edge"].pid
    before = memory_kib(edge)
    clients = [Client(stack.port) for _ in range(count)]
    began = time.monotonic()
    for start in range(0, count, 50):
        await asyncio.gather(*(client.connect() for client in clients[start : start + 50]))
        await until_true(partial(are_open, clients[: start + 50]))
    print(f"{count} streams opened in {time.monotonic() - began:.1f} s")
    print(f"memory of each: {(memory_kib(edge) - before) / count:.1f} KiB")
    expected = int(seconds * EVENTS_A_SECOND)
    cpu, own = cpu_seconds(edge), time.process_time()
    process = recorder(stack, seconds)
    await until_true(lambda: all(len(each.numbers) >= expected for each in clients), seconds + 120)
    process.wait()
    lags = sorted(lag for each in clients for lag in each.lags)
    p95 = lags[int(len(lags) * 0.95)]
    print(f"lag: median {statistics.median(lags):.0f} ms, p95 {p95:.0f} ms, max {lags[-1]:.0f} ms")
    used, own = cpu_seconds(edge) - cpu, time.process_time() - own
    print(
        f"CPU of the edge: {used / seconds * 100:.0f} %, of the clients {own / seconds * 100:.0f} %"
    )
    process = recorder(stack, 10)
    await asyncio.sleep(3)
    began = time.monotonic()
    stack.kill("edge")
    await asyncio.to_thread(stack.start, "edge")
    await until_true(partial(are_open, clients))
    print(f"all continue {time.monotonic() - began:.1f} s after the edge was killed")
    expected += 10 * EVENTS_A_SECOND
    await until_true(lambda: all(len(each.numbers) >= expected for each in clients))
    process.wait()
    whole = {tuple(each.numbers) for each in clients}
    is_same = len(whole) == 1 and len(set(whole.pop())) == expected
    print("no client missed an event" if is_same else "CLIENTS MISSED EVENTS")
    for each in clients:
        each.close()
    return is_same and p95 <= LIMIT_MS


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    seconds = float(sys.argv[2]) if len(sys.argv) > 2 else 30.0
    with tempfile.TemporaryDirectory() as folder, Stack(Path(folder)) as stack:
        until(stack.is_responding, 60)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            good = runner.run(play(stack, count, seconds))
    sys.exit(not good)


if __name__ == "__main__":
    main()
