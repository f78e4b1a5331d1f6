"""Bench of any server that speaks the wire contract, with the calls that agents make.

    python -m tests.bench.fleet_api [--vms 10000] [--seconds 2] [--only REGEX] [--by-django]
    python -m tests.bench.fleet_api --url http://127.0.0.1:3000 --token SECRET [--seeded]

Needs `wrk`. Without `--url` it starts a reef of its own. Machines and their neighbours differ, so
one column compares with U: what a uvicorn that says hello answers in the same run. The last one is
the processor time of edge, web and PostgreSQL for a request. `--by-django` also measures what the
same reads cost without the fast path. Another server gets its fleet through the API, unless it is
`--seeded`.

The fleet is a root, lieutenants below it, ten agents below each of these, and nine workers below
each agent: a lieutenant has a hundred descendants. A hundred VMs have the organ `rare`, and five
the role `golden`.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import psycopg

from tests.bench.fleet_lieutenants import seed_lieutenants
from tests.stack import ROOT, TOKEN, Stack, free_port
from tests.waiting import until

CONNECTIONS = 64
CLIENTS = 8
SIZE = 101
# Tokens of the VMs of a reef that was filled directly.
VM_TOKEN = "reef_%043d"


@dataclass(frozen=True)
class Load:
    """A kind of request: many at once, for the VMs of a generation; `%05d` is a VM's number."""

    name: str
    path: str
    generation: str = "any"
    method: str = "GET"
    # Whether a VM asks with its own token, if it has one.
    own: bool = True
    # Whether it needs rows that only a reef of our own has.
    seeded: bool = False
    # Whether a header that only Django looks at makes the edge pass it on.
    by_django: bool = False


@dataclass(frozen=True)
class Download:
    """A large response that one client asks for again and again."""

    name: str
    path: str


LIEUTENANT = "/lieutenant/lieutenants/vm-%05d"
LOADS = [
    Load("heartbeat", "/registry/vms/vm-%05d/heartbeat", method="POST"),
    Load("one VM", "/registry/vms/vm-%05d"),
    Load("registry ancestors", "/registry/vms/vm-%05d/ancestors"),
    Load("registry children", "/registry/vms/vm-%05d/children", "agent"),
    Load("discover, 5", "/registry/discover/golden"),
    Load("one node", "/vm-tree/vms/vm-%05d"),
    Load("tree ancestors", "/vm-tree/vms/vm-%05d/ancestors"),
    Load("tree children, 9", "/vm-tree/vms/vm-%05d/children", "agent"),
    Load("find by organ, 100", "/vm-tree/find/organ/rare"),
    Load("descendants, 100", "/vm-tree/vms/vm-%05d/descendants", "lieutenant"),
    Load("nested tree of a root, 100", "/vm-tree/tree?root=vm-%05d", "lieutenant"),
    Load("flat tree of a root, 100", "/vm-tree/tree?flat=true&root=vm-%05d", "lieutenant"),
    Load("tree since, 0", "/vm-tree/tree?since=2100-01-01T00:00:00Z"),
    Load("diff", "/vm-tree/vms/vm-%05d/diff/vm-00001"),
    Load("stats", "/vm-tree/stats"),
    Load("profiles", "/bootloader/profiles"),
    Load("one lieutenant", f"{LIEUTENANT}", "lieutenant", seeded=True),
    Load("one lieutenant, brief", f"{LIEUTENANT}?brief=true", "lieutenant", seeded=True),
    Load("lieutenants, by one of them", "/lieutenant/lieutenants", "lieutenant", seeded=True),
    Load("read, tail 2000", f"{LIEUTENANT}/read?tail=2000", "lieutenant", seeded=True),
    Load("read, history 3", f"{LIEUTENANT}/read?history=3", "lieutenant", seeded=True),
    Load("messages, 20", f"{LIEUTENANT}/messages", "lieutenant", seeded=True),
    Load("transcript, 80", f"{LIEUTENANT}/transcript", "lieutenant", seeded=True),
]
DOWNLOADS = [
    Download("nested tree", "/vm-tree/tree"),
    Download("flat tree", "/vm-tree/vms"),
    Download("registry list", "/registry/vms"),
    Download("registry subtree of the root", "/registry/vms/vm-00000/subtree"),
    Download("lieutenants", "/lieutenant/lieutenants"),
    Download("lieutenants, brief", "/lieutenant/lieutenants?brief=true"),
]


# -- the fleet ---------------------------------------------------------------------------------


def generation_of(number: int) -> str:
    """Return the generation of a VM: root, lieutenant, agent or worker."""
    if number == 0:
        return "root"
    place = (number - 1) % SIZE
    return "lieutenant" if place == 0 else "agent" if place <= 10 else "worker"


def parent_of(number: int) -> int | None:
    """Return the number of the VM above."""
    if number == 0:
        return None
    place = (number - 1) % SIZE
    if place == 0:
        return 0
    first = number - place
    return first if place <= 10 else first + 1 + (place - 11) // 9


def facts_of(number: int, vms: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the bodies that create a VM in registry and tree."""
    parent, generation, vm_id = parent_of(number), generation_of(number), f"vm-{number:05d}"
    role = "golden" if vms - number <= 5 else "worker"
    role = {"root": "infra", "lieutenant": "lieutenant"}.get(generation, role)
    category = {"root": "infra_vm", "lieutenant": "lieutenant", "agent": "agent_vm"}
    organs = ["store", "cron"] + (["rare"] if number % max(1, vms // 100) == 1 else [])
    both = {
        "name": f"number {number}",
        "parentVmId": None if parent is None else f"vm-{parent:05d}",
        "reefConfig": {"organs": organs, "capabilities": ["ssh"]},
    }
    registered = {"id": vm_id, "role": role, "address": f"{vm_id}.example", "registeredBy": "bench"}
    services = {"services": [{"name": "reef", "port": 3000}]}
    node = {"vmId": vm_id, "category": category.get(generation, "swarm_vm")}
    return {**both, **registered, **services}, {**both, **node}


def seed_by_api(url: str, token: str, vms: int) -> None:
    """Create the fleet through the API, generation after generation."""
    numbers = [[n for n in range(vms) if generation_of(n) == word] for word in GENERATIONS]

    def create(number: int) -> None:
        vm, node = facts_of(number, vms)
        for path, body in (("/vm-tree/vms", node), ("/registry/vms", vm)):
            given = {name: value for name, value in body.items() if value is not None}
            client.post(path, json=given).raise_for_status()

    headers = {"authorization": f"Bearer {token}"}
    with (
        httpx.Client(base_url=url, headers=headers, timeout=60) as client,
        concurrent.futures.ThreadPoolExecutor(CLIENTS) as pool,
    ):
        for some in numbers:
            list(pool.map(create, some))


GENERATIONS = ("root", "lieutenant", "agent", "worker")


def seed(vms: int) -> None:
    """Create the fleet in the database of the settings, each VM with a token of its own."""
    from django.db import transaction

    from reef_site.common import clock
    from registry.models import VM
    from vmtree.models import Node, NodeToken, Trait
    from vmtree.tokens import digest_of

    now, rows, nodes = clock.now(), [], []
    for number in range(vms):
        vm, node = facts_of(number, vms)
        row = VM(
            id=vm["id"],
            name=vm["name"],
            role=vm["role"],
            address=vm["address"],
            parent_vm_id=vm["parentVmId"],
            services=vm["services"],
            reef_config=vm["reefConfig"],
            registered_by="bench",
            last_seen=now,
        )
        row.seen(now)
        rows.append(row)
        nodes.append(
            Node(
                vm_id=row.pk,
                name=row.name,
                category=node["category"],
                parent_id=None if number == 0 else (parent_of(number) or 0) + 1,
                reef_config=row.reef_config,
                pk=number + 1,
            )
        )
    with transaction.atomic():
        VM.objects.bulk_create(rows, batch_size=500)
        Node.objects.bulk_create(nodes, batch_size=500)
        Trait.objects.bulk_create(
            [
                Trait(node=node, kind="organ", name=name, position=position)
                for node in nodes
                for position, name in enumerate(node.organs)
            ],
            batch_size=500,
        )
        NodeToken.objects.bulk_create(
            [
                NodeToken(node=node, digest=digest_of(VM_TOKEN % number), made_by="bench")
                for number, node in enumerate(nodes)
            ],
            batch_size=500,
        )
    _continue_keys_after(vms)
    numbers = (number for number in range(vms) if generation_of(number) == "lieutenant")
    seed_lieutenants([f"vm-{number:05d}" for number in numbers])


def _continue_keys_after(vms: int) -> None:
    """Let PostgreSQL give the next node a key behind ours."""
    from django.core.management.color import no_style
    from django.db import connection

    from vmtree.models import Node

    with connection.cursor() as cursor:
        for sql in connection.ops.sequence_reset_sql(no_style(), [Node]):
            cursor.execute(sql)


# -- measuring ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Results:
    """Results of wrk, times in ms."""

    per_second: float
    p50: float
    p99: float
    bad: int = 0
    requests: int = 0


def load_by_wrk(url: str, script: str, seconds: float, connections: int = CONNECTIONS) -> Results:
    """Run wrk once with one thread."""
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as file:
        file.write(script)
        file.flush()
        words = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency", "-s", file.name]
        said = subprocess.run([*words, url], capture_output=True, text=True, check=True).stdout
    bad = re.search(r"Non-2xx or 3xx responses: (\d+)", said)
    rate = re.search(r"Requests/sec:\s+([\d.]+)", said)
    count = re.search(r"(\d+) requests in", said)
    assert rate, said
    assert count, said
    failed = int(bad[1]) if bad else 0
    return Results(float(rate[1]), _ms(said, "50%"), _ms(said, "99%"), failed, int(count[1]))


def _ms(said: str, share: str) -> float:
    found = re.search(rf"{share}\s+([\d.]+)(us|ms|s)", said)
    assert found, said
    return float(found[1]) * {"us": 0.001, "ms": 1.0, "s": 1000.0}[found[2]]


class Target:
    """The measured server; `cpu` returns the processor time of its processes so far."""

    def __init__(
        self,
        url: str,
        token: str,
        vms: int,
        vm_token: str = "",
        cpu: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self.url, self.token, self.vms, self.vm_token = url, token, vms, vm_token
        self.cpu = cpu

    def load(self, load: Load, seconds: float) -> Results:
        """Send this kind of request over all connections."""
        script = LUA_FLEET.format(
            vms=self.vms,
            number=_NUMBERS[load.generation].format(vms=self.vms, groups=(self.vms - 1) // SIZE),
            token=self.vm_token if load.own and self.vm_token else self.token,
            method=load.method,
            path=load.path,
            more=FOR_DJANGO if load.by_django else "",
        )
        return load_by_wrk(self.url, script, seconds)

    def download(self, what: Download, times: int, **headers: str) -> tuple[float, int, int]:
        """Return the median of some downloads in ms, the bytes, and the status."""
        taken, size, status = [], 0, 0
        sent = {"authorization": f"Bearer {self.token}", "accept-encoding": "identity", **headers}
        with httpx.Client(base_url=self.url, headers=sent, timeout=120) as client:
            for _ in range(times + 1):
                began = time.perf_counter()
                with client.stream("GET", what.path) as answer:
                    size = sum(len(chunk) for chunk in answer.iter_raw())
                    status = answer.status_code
                taken.append((time.perf_counter() - began) * 1000)
        return statistics.median(taken[1:]), size, status

    def etag(self, what: Download) -> str:
        """Return the ETag of a response; empty if there is none."""
        headers = {"authorization": f"Bearer {self.token}"}
        answer = httpx.get(self.url + what.path, headers=headers, timeout=120)
        return str(answer.headers.get("etag", ""))

    def register(self, seconds: float, clients: int) -> Results:
        """Register new VMs by some clients."""
        script = LUA_REGISTER.format(token=self.token, run=f"{time.time_ns():x}")
        return load_by_wrk(self.url, script, seconds, clients)


# `at` goes through the fleet in no order; this is the number of the VM to ask about.
_NUMBERS = {
    "any": "at",
    "lieutenant": f"1 + {SIZE} * (at % {{groups}})",
    "agent": f"2 + {SIZE} * (at % {{groups}}) + at % 10",
}
LUA_FLEET = """
local at = math.random({vms}) - 1
request = function()
  at = (at + 7919) % {vms}
  local n = {number}
  local headers = {{ Authorization = string.format("Bearer {token}", n) {more} }}
  return wrk.format("{method}", string.format("{path}", n), headers)
end
"""
FOR_DJANGO = ', ["If-Modified-Since"] = "Thu, 01 Jan 1970 00:00:00 GMT"'
LUA_HELLO = 'request = function() return wrk.format("GET", "/") end'


# A new VM in the tree, then the same one in the registry, and so on.
LUA_REGISTER = """
local n, isNode = 0, false
request = function()
  isNode = not isNode
  if isNode then n = n + 1 end
  local id = "new-{run}-" .. n
  local both = '"name":"' .. id .. '","parentVmId":"vm-00001",'
    .. '"reefConfig":{{"organs":["store"],"capabilities":[]}}}}'
  local headers = {{ Authorization = "Bearer {token}", ["Content-Type"] = "application/json" }}
  if isNode then
    return wrk.format("POST", "/vm-tree/vms", headers,
      '{{"vmId":"' .. id .. '","category":"agent_vm",' .. both)
  end
  return wrk.format("POST", "/registry/vms", headers,
    '{{"id":"' .. id .. '","role":"worker","address":"x","registeredBy":"bench",' .. both)
end
"""


# -- servers -----------------------------------------------------------------------------------


async def hello(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Say hello."""
    if scope["type"] == "http":
        headers = [(b"content-type", b"application/json"), (b"content-length", b"14")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b'{"hello":true}'})


@contextmanager
def running_hello() -> Iterator[str]:
    """Run the yardstick with the settings of the edge's server; yield its URL."""
    port = free_port()
    words = ["--loop", "uvloop", "--http", "httptools", "--no-access-log", "--log-level", "warning"]
    words += ["--lifespan", "off", "--port", str(port), "tests.bench.fleet_api:hello"]
    server = subprocess.Popen([sys.executable, "-m", "uvicorn", *words], cwd=ROOT)
    url = f"http://127.0.0.1:{port}"

    def is_up() -> bool:
        try:
            return httpx.get(url).status_code == 200
        except httpx.TransportError:
            return False

    try:
        until(is_up, 30)
        yield url
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(10)


@contextmanager
def running_reef(options: argparse.Namespace) -> Iterator[Target]:
    """Start a reef of our own with the fleet in its database."""
    env = {"DATABASE_URL": options.database_url} if options.database_url else {}
    with (
        tempfile.TemporaryDirectory(prefix="reef-bench-") as folder,
        Stack(Path(folder), REEF_ROOT_RATE_LIMIT="0", REEF_RATE_LIMIT="0", **env) as stack,
    ):
        words = [sys.executable, "-m", "tests.bench.fleet_api", "--child", "seed"]
        settings = {**stack.env, "DJANGO_SETTINGS_MODULE": "reef_site.settings"}
        subprocess.run([*words, "--vms", str(options.vms)], cwd=ROOT, env=settings, check=True)
        url = f"http://127.0.0.1:{stack.port}"
        yield Target(
            url,
            TOKEN,
            options.vms,
            VM_TOKEN,
            lambda: cpu_of(stack, options.database_url),
        )


def cpu_of(stack: Stack, database_url: str) -> float:
    """Return the processor time of edge and web, and of PostgreSQL's processes, in seconds."""
    sessions = {stack.processes[name].pid for name in ("edge", "web")}
    servers = set()
    if database_url:
        with psycopg.connect(database_url) as link:
            servers = {pid for (pid,) in link.execute("SELECT pid FROM pg_stat_activity")}
    ticks = 0
    for entry in Path("/proc").iterdir():
        with suppress(OSError):
            if entry.name.isdigit():
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                if int(fields[3]) in sessions or int(entry.name) in servers:
                    ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


# -- the run -----------------------------------------------------------------------------------


def slow_variant(load: Load) -> Load:
    """Return the same load, answered by Django."""
    return replace(load, name="… by Django", by_django=True)


def line_of(name: str, found: Results, u: float, cpu: float) -> str:
    """Return a line of the table."""
    bad = f"  {found.bad} FAILED" if found.bad else ""
    rates = f"{found.per_second:10,.0f} {found.p50:8.1f} {found.p99:8.1f} {u:8,.0f}"
    return f"{name:32} {rates} {found.per_second / u:7.3f} {cpu:7.3f}{bad}"


def measure(target: Target, hello_url: str, options: argparse.Namespace) -> None:
    """Print the table. U is measured again before each call, since neighbours come and go."""
    heads = f"{'a second':>10} {'p50 ms':>8} {'p99 ms':>8} {'U':>8} {'of U':>7} {'CPU ms':>7}"
    print(f"{'call':32} {heads}")
    loads = [each for each in LOADS if target.vm_token or not each.seeded]
    loads = [each for each in loads if re.search(options.only, each.name)]
    if options.by_django:
        loads = [one for each in loads for one in (each, slow_variant(each))]
    for load in loads:
        runs = []
        for _ in range(options.rounds):
            u = load_by_wrk(hello_url, LUA_HELLO, options.seconds).per_second
            before = target.cpu()
            found = target.load(load, options.seconds)
            cpu = (target.cpu() - before) / max(1, found.requests) * 1000
            runs.append((found.per_second / u, u, found, cpu))
        _, u, found, cpu = sorted(runs, key=lambda run: run[0])[len(runs) // 2]
        print(line_of(load.name, found, u, cpu), flush=True)
    for clients in (CLIENTS, 1) if re.search(options.only, "register") else ():
        u = load_by_wrk(hello_url, LUA_HELLO, options.seconds).per_second
        before = target.cpu()
        found = target.register(options.seconds, clients)
        cpu = (target.cpu() - before) / max(1, found.requests) * 1000
        print(line_of(f"register, clients: {clients}", found, u, cpu), flush=True)
    print(f"\n{'response':32} {'ms':>8} {'MB':>7} {'gzip ms':>9} {'MB':>7} {'304 ms':>8}")
    for what in (each for each in DOWNLOADS if re.search(options.only, each.name)):
        plain, size, _ = target.download(what, options.times)
        small, packed, _ = target.download(what, options.times, **{"accept-encoding": "gzip"})
        line = f"{what.name:32} {plain:8.1f} {size / 1e6:7.2f} {small:9.1f} {packed / 1e6:7.2f}"
        if etag := target.etag(what):
            same, _, status = target.download(what, options.times, **{"if-none-match": etag})
            line += f" {same:8.1f}" if status == 304 else f"   ({status})"
        print(line, flush=True)


def main() -> None:
    """Parse arguments, start what is to be started, and measure."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--url", help="another server; its token is needed, too")
    parser.add_argument("--token", default="")
    parser.add_argument("--seeded", action="store_true", help="the server has the fleet already")
    parser.add_argument("--vms", type=int, default=10_000)
    parser.add_argument("--seconds", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=1, help="of each call; the median counts")
    parser.add_argument("--times", type=int, default=7, help="downloads of each large response")
    parser.add_argument("--only", default="", help="regex for the names of calls")
    parser.add_argument("--database-url", default="", help="PostgreSQL for a reef of our own")
    parser.add_argument("--by-django", action="store_true", help="measure reads by Django, too")
    parser.add_argument("--child", choices=["seed"])
    options = parser.parse_args()
    if options.child == "seed":
        import django

        django.setup()
        seed(options.vms)
        return
    if not shutil.which("wrk"):
        raise SystemExit("this bench needs wrk: apt-get install wrk")
    with ExitStack() as stack:
        if options.url:
            target = Target(options.url, options.token, options.vms)
            if not options.seeded:
                seed_by_api(options.url, options.token, options.vms)
        else:
            target = stack.enter_context(running_reef(options))
        measure(target, stack.enter_context(running_hello()), options)


if __name__ == "__main__":
    main()
