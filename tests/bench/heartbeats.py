"""Bench of the fast path and the DRF routes in one run: 10,000 VMs, 64 connections, a busy writer.

    python -m tests.bench.heartbeats [--seconds 2] [--rounds 3] [--vms 10000]

Needs `wrk`. One process is compared with one process: the DRF routes are served by a separate web
server like that of `up`, without the edge. Meanwhile another process commits batches to the same
database.
"""

from __future__ import annotations

import argparse
import gc
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from reef_site.common import clock
from tests.stack import ROOT, TOKEN, Stack, free_port
from tests.waiting import until

CONNECTIONS = 64
BULK_IDS = 1000
LIEUTENANTS = 100

# Each request is for another VM, with that VM's token.
LUA = """
local at = math.random({vms})
request = function()
  at = (at + 7919) % {vms}
  local headers = {{ Authorization = string.format("Bearer {token}", at) }}
  headers["Reef-Edge-Key"] = {key}
  return wrk.format("{method}", string.format("{path}", at), headers, {body})
end
"""
NODE_TOKEN = "reef_%043d"
BULK = """(function()
  local ids = {{}}
  for k = 1, {ids} do ids[k] = string.format('"vm-%05d"', (at + k) % {vms}) end
  return '{{"ids":[' .. table.concat(ids, ",") .. ']}}'
end)()"""


@dataclass(frozen=True)
class Results:
    """Results of wrk."""

    per_second: float
    p50: float
    p99: float
    bad: int

    def __str__(self) -> str:
        bad = f", {self.bad} FAILED" if self.bad else ""
        return f"{self.per_second:8,.0f}/s  p50 {self.p50:6.1f} ms  p99 {self.p99:6.1f} ms{bad}"


@dataclass(frozen=True)
class Load:
    """A kind of request."""

    name: str
    method: str
    path: str
    times: float
    body: str = "nil"
    connections: int = CONNECTIONS


LOADS = [
    Load("heartbeat", "POST", "/registry/vms/vm-%05d/heartbeat", 15),
    Load("one VM", "GET", "/registry/vms/vm-%05d", 10),
    Load("discover", "GET", "/registry/discover/lieutenant", 10),
    Load("ancestors", "GET", "/registry/vms/vm-%05d/ancestors", 10),
]


def measure(load: Load, port: int, seconds: int, vms: int, key: str = "") -> Results:
    """Run wrk once; with a key it authenticates as the edge does."""
    body = BULK.format(ids=BULK_IDS, vms=vms) if load.body == "bulk" else "nil"
    token = TOKEN if load.body == "bulk" else NODE_TOKEN
    shown = f'"{key}"' if key else "nil"
    text = LUA.format(
        token=token, vms=vms, method=load.method, path=load.path, body=body, key=shown
    )
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write(text)
        script.flush()
        words = ["wrk", "-t1", f"-c{load.connections}", f"-d{seconds}s", "--latency"]
        words += ["-s", script.name, f"http://127.0.0.1:{port}"]
        said = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    bad = re.search(r"Non-2xx or 3xx responses: (\d+)", said)
    return Results(
        float(re.search(r"Requests/sec:\s+([\d.]+)", said)[1]),  # type: ignore[index]
        _ms(said, "50%"),
        _ms(said, "99%"),
        int(bad[1]) if bad else 0,
    )


def _ms(said: str, share: str) -> float:
    found = re.search(rf"{share}\s+([\d.]+)(us|ms|s)", said)
    assert found, said
    return float(found[1]) * {"us": 0.001, "ms": 1.0, "s": 1000.0}[found[2]]


# -- server processes --------------------------------------------------------------------------


def child(stack: Stack, *words: str) -> subprocess.Popen[bytes]:
    """Run this module in the environment of the measured reef."""
    env = {**stack.env, "DJANGO_SETTINGS_MODULE": "reef_site.settings"}
    return subprocess.Popen(
        [sys.executable, "-m", "tests.bench.heartbeats", *words], cwd=ROOT, env=env
    )


def seed(vms: int) -> None:
    """Create three generations of VMs, each with a node and a token of its own."""
    from registry.models import VM
    from vmtree.models import Node, NodeToken
    from vmtree.tokens import digest_of

    now, rows = clock.now(), []
    for number in range(vms):
        parent = None
        if number >= LIEUTENANTS:
            parent = f"vm-{number % LIEUTENANTS if number < vms // 2 else number - vms // 2:05d}"
        vm = VM(
            id=f"vm-{number:05d}",
            name=f"number {number}",
            role="lieutenant" if number < LIEUTENANTS else "worker",
            address=f"vm-{number:05d}.example",
            parent_vm_id=parent,
            services=[{"name": "reef", "port": 3000}],
            reef_config={"organs": ["store", "cron"], "capabilities": ["ssh"]},
            registered_by="bench",
            last_seen=now,
        )
        vm.seen(now)
        rows.append(vm)
    VM.objects.bulk_create(rows, batch_size=500)
    nodes = [Node(vm_id=vm.pk, name=vm.name, category="agent_vm") for vm in rows]
    Node.objects.bulk_create(nodes, batch_size=500)
    keys = Node.objects.order_by("vm_id").values_list("pk", flat=True)
    made = [
        NodeToken(node_id=key, digest=digest_of(NODE_TOKEN % number), made_by="bench")
        for number, key in enumerate(keys)
    ]
    NodeToken.objects.bulk_create(made, batch_size=500)


def write_continuously() -> None:
    """Write like a busy worker: ten transactions a second of two hundred rows each."""
    from django.db import transaction

    from registry.models import Gap

    # As the worker does at its start.
    gc.collect()
    gc.freeze()
    parent = os.getppid()
    while os.getppid() == parent:
        now = clock.now()
        with transaction.atomic():
            Gap.objects.bulk_create(
                Gap(vm_id="bench", began_at=now, ended_at=now, status="running") for _ in range(200)
            )
        time.sleep(0.1)


@contextmanager
def run_django(stack: Stack) -> Iterator[int]:
    """Start a web server like that of `up`, with one worker, on a separate port."""
    port = free_port()
    words = ["--interface", "wsgi", "--workers", "1", "--blocking-threads", "1"]
    words += ["--log-level", "warning", "--host", "127.0.0.1", "--port", str(port)]
    server = subprocess.Popen(
        [sys.executable, "-m", "granian", *words, "reef_site.wsgi:application"],
        cwd=ROOT,
        env=stack.env,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        until(lambda: _is_listening(port), 20)
        yield port
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait(10)


def _is_listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


# -- the run -----------------------------------------------------------------------------------


def median(load: Load, ports: dict[int, str], options: argparse.Namespace) -> list[Results]:
    """Return the median run for each port; the ports take turns. Each has a key."""
    runs: dict[int, list[Results]] = {port: [] for port in ports}
    for _ in range(options.rounds):
        for port, key in ports.items():
            runs[port].append(measure(load, port, options.seconds, options.vms, key))
    return [sorted(each, key=lambda run: run.per_second)[len(each) // 2] for each in runs.values()]


def compare(stack: Stack, options: argparse.Namespace) -> bool:
    """Print all results; return whether all of them are good enough."""
    good = True
    key = (stack.data / "edge-key").read_text()
    with run_django(stack) as port:
        for load in LOADS:
            slow, fast = median(load, {port: key, stack.port: ""}, options)
            times = fast.per_second / slow.per_second
            enough = times >= load.times and not fast.bad and not slow.bad
            enough &= load.name != "heartbeat" or fast.p99 < 30
            good &= enough
            print(f"{load.name:10} DRF {slow}\n{'':10} hot {fast}")
            print(f"{'':10} {times:.1f} times ({load.times:.0f} wanted) {'' if enough else 'NO'}")
    load = Load("bulk", "POST", "/registry/heartbeats", 0, "bulk", 8)
    (bulk,) = median(load, {stack.port: ""}, options)
    beats = bulk.per_second * BULK_IDS
    good &= beats >= 50_000 and not bulk.bad
    print(f"bulk       {beats:,.0f} beats a second (50,000 wanted)  {bulk}")
    return good


def main() -> None:
    """Parse arguments, start a reef in a temporary folder, and measure."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--vms", type=int, default=10_000)
    parser.add_argument("--child", choices=["seed", "write"])
    options = parser.parse_args()
    if options.child:
        import django

        django.setup()
        seed(options.vms) if options.child == "seed" else write_continuously()
        return
    if not shutil.which("wrk"):
        raise SystemExit("this bench needs wrk: apt-get install wrk")
    with tempfile.TemporaryDirectory(prefix="reef-bench-") as folder, Stack(Path(folder)) as stack:
        assert child(stack, "--child", "seed", "--vms", str(options.vms)).wait(120) == 0
        writer = child(stack, "--child", "write")
        try:
            good = compare(stack, options)
        finally:
            writer.kill()
            writer.wait()
    raise SystemExit(0 if good else 1)


if __name__ == "__main__":
    main()
