"""Bench of agents on VMs: `python tests/bench/remote.py [sessions machines]`.

1,000 sessions on 100 machines, unless it is told others, followed by two real workers with one
PostgreSQL. A few sshd with many addresses stand for the machines. The relays are real; one process
writes all journals in place of keepers and agents. Printed are processor time and memory while all
sessions are quiet and while every eleventh one speaks, the lag from print to committed row, and the
time of a start on a machine whose connection is open.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from datetime import datetime
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).resolve().parents[2]
SECONDS = 20.0  # of each phase
LINES_A_SECOND = 10  # of each session that speaks
STEP = 11  # one of so many sessions speaks: on all machines, of both workers
ADDRESSES = 15  # of one sshd; it listens at 16 at most
TICKS = os.sysconf("SC_CLK_TCK")


def started(pid: int) -> int:
    """Return the start time of a process, as the kernel counts it."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])


def write(files: list[str], seconds: float) -> None:
    """Say on stdout who writes; then, at each line of stdin, write to every eleventh journal."""
    from tests.bench.follower import conversation, event

    print(os.getpid(), flush=True)
    speaking = [os.open(name, os.O_WRONLY | os.O_APPEND) for name in files[::STEP]]
    for _ in sys.stdin:
        talks = [conversation() for _ in speaking]
        for journal in speaking:
            os.write(journal, event("agent_start"))
        begun, written = time.monotonic(), 0
        while (now := time.monotonic() - begun) < seconds:
            due = int(now * LINES_A_SECOND * len(speaking))
            for number in range(written, due):
                place = number % len(speaking)
                os.write(speaking[place], next(talks[place]))
            written = due
            time.sleep(0.02)
        print(written, flush=True)


class Usage:
    """Processor time and memory of processes, by what they are."""

    def __init__(self, roots: dict[str, int]) -> None:
        """`roots` are processes by kind; their descendants count as well, relays by themselves."""
        self._roots = roots
        self.at = time.monotonic()
        self.cpu: dict[str, float] = defaultdict(float)
        self.memory: dict[str, float] = defaultdict(float)
        self.number: dict[str, int] = defaultdict(int)
        for pid, kind in self._kinds().items():
            try:
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
            except OSError:
                continue
            pss = next((line for line in rollup.splitlines() if line.startswith("Pss:")), "x 0")
            self.cpu[kind] += (int(fields[11]) + int(fields[12])) / TICKS
            self.memory[kind] += int(pss.split()[1]) / 1024
            self.number[kind] += 1

    def _kinds(self) -> dict[int, str]:
        parents: dict[int, int] = {}
        lines: dict[int, bytes] = {}
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                lines[int(entry.name)] = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            parents[int(entry.name)] = int(fields[1])
        found = {}
        for pid in parents:
            at: int | None = pid
            while at and at not in self._roots.values():
                at = parents.get(at)
            if at:
                kind = next(name for name, root in self._roots.items() if root == at)
                kind = "sshd" if kind.startswith("sshd") else kind
                is_relay = kind == "sshd" and b"python" in lines[pid].split(b"\0")[0]
                found[pid] = "relays" if is_relay else kind
        return found

    def say(self, before: Usage, title: str) -> None:
        """Print what was used since then."""
        seconds = self.at - before.at
        print(f"{title}, {seconds:.0f} s:")
        for kind, cpu in sorted(self.cpu.items()):
            share = 100 * (cpu - before.cpu[kind]) / seconds
            print(
                f"  {kind:12} {self.number[kind]:4} processes, processor {share:6.1f} %,"
                f" memory {self.memory[kind]:7.0f} MB"
            )


class Bench:
    """Rows, machines and workers. Everything is below `folder`."""

    def __init__(self, folder: Path, sessions: int, machines: int) -> None:
        from django.conf import settings

        from tests.bootloader.ssh_servers import Sshd
        from tests.lieutenants.remote.two_workers import Worker

        self.home = folder / "home"
        self.home.mkdir()
        addresses = [f"127.0.1.{number}" for number in range(1, machines + 1)]
        self.servers: list[Sshd] = []
        self.hosts: list[Any] = []
        for begin in range(0, machines, ADDRESSES):
            server = Sshd(
                folder / f"sshd-{begin}",
                SetEnv=f"HOME={self.home}",
                ListenAddress=["127.0.0.1", *addresses[begin : begin + ADDRESSES]],
                MaxStartups="200",
            )
            self.servers.append(server)
            self.hosts += [
                self._host(server, each) for each in addresses[begin : begin + ADDRESSES]
            ]
        self.workers = (
            Worker(settings.DATA_DIR),
            Worker(folder / "second", REEF_HOST="second"),
        )
        self.journals: list[str] = []
        self.processes = [self._session(number) for number in range(sessions)]
        argv = [sys.executable, __file__, "write", *self.journals]
        pipe = subprocess.PIPE
        env = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
        self.writer = subprocess.Popen(argv, stdin=pipe, stdout=pipe, text=True, env=env)
        assert self.writer.stdout
        pid = int(self.writer.stdout.readline())
        handle = {"keeper_pid": pid, "keeper_started": started(pid)}
        for name in self.journals:
            (Path(name).parent / "keeper.json").write_text(json.dumps(handle))
        from lieutenants.models import Process

        Process.objects.update(handle=handle)

    @staticmethod
    def _host(server: Any, address: str) -> Any:
        from bootloader.models import SshHost

        user = server.login().user
        name = f"m{address.rpartition('.')[2]}"
        host = SshHost(name=name, address=address, port=server.port, user=user)
        host.set_key(server.key)
        host.save()
        return host

    def _session(self, number: int) -> Any:
        from lieutenants import membership
        from lieutenants.models import Lieutenant, Process

        host = self.hosts[number % len(self.hosts)]
        owner = self.workers[number % len(self.hosts) % 2].pk
        common = {"host": host.name, "transport": "ssh", "data_folder": owner}
        row = Lieutenant.objects.create(
            name=f"l{number}", role="bench", agent="command", command=["cat"], folder="~/x",
            status="idle", ssh_host=host, **common,
        )  # fmt: skip
        membership.register(row, actor="bench")
        folder = self.home / ".reef-agents" / "lieutenants" / row.pk / "runs" / "run"
        folder.mkdir(parents=True)
        (folder / "control.sock").touch()
        (folder / "journal.jsonl").touch()
        self.journals.append(str(folder / "journal.jsonl"))
        return Process.objects.create(
            lieutenant=row, directory=str(folder), agent="", ready_at=row.created_at, **common
        )

    def connect(self) -> None:
        """Start the workers, and wait until both have a connection to each of their machines."""
        from tests.waiting import until

        begun = time.monotonic()
        for worker in self.workers:
            worker.start()
        until(lambda: all(worker.is_following() for worker in self.workers), 120)
        self.roots = {
            **{
                f"sshd {number}": server.process.pid
                for number, server in enumerate(self.servers)
                if server.process
            },
            "worker one": self.workers[0].pid,
            "worker two": self.workers[1].pid,
        }
        until(lambda: Usage(self.roots).number["relays"] >= len(self.hosts), 600)
        print(f"all machines are connected after {time.monotonic() - begun:.0f} s")

    def quiet(self, seconds: float) -> None:
        time.sleep(seconds)
        before = Usage(self.roots)
        time.sleep(seconds)
        Usage(self.roots).say(before, f"{len(self.processes)} quiet sessions")

    def speak(self) -> None:
        """Let every eleventh session speak, and look at what arrives in the database."""
        from lieutenants.models import Chunk

        assert self.writer.stdin
        assert self.writer.stdout
        before = Usage(self.roots)
        self.writer.stdin.write("go\n")
        self.writer.stdin.flush()
        lags: list[float] = []
        last, end = 0, time.monotonic() + SECONDS
        while time.monotonic() < end:
            now = time.time()
            for chunk in Chunk.objects.filter(pk__gt=last).order_by("pk"):
                last = chunk.pk
                stamps = [word for word in chunk.text.split() if word[:1] in "1" and "." in word]
                lags += [now - float(word) for word in stamps]
            time.sleep(0.02)
        Usage(self.roots).say(before, f"{len(self.processes[::STEP])} of them speak")
        lines = int(self.writer.stdout.readline())
        lags.sort()
        p50, p95 = (lags[int(len(lags) * part)] * 1000 for part in (0.5, 0.95))
        print(f"  {lines / SECONDS:.0f} lines/s; print to row: p50 {p50:.0f} ms, p95 {p95:.0f} ms")

    def start_warm(self) -> None:
        """Start lieutenants on machines whose connections are open."""
        from lieutenants.models import Lieutenant
        from tests.conftest import Api
        from tests.waiting import until

        api = Api()
        for number in range(4):
            # The first worker starts them, and follows every second machine.
            body = {"name": f"warm{number}", "role": "bench", "local": False, "agent": "command"}
            body |= {"command": ["cat"], "sshHost": self.hosts[2 * number].name}
            begun, posted = time.monotonic(), time.time()
            answer = api.post("/lieutenant/lieutenants", body)
            assert answer.status_code == 201, answer.content
            rows = Lieutenant.objects.filter(name=body["name"])
            until(lambda: rows.filter(status="idle").exists(), 60)  # noqa: B023
            seconds = time.monotonic() - begun
            steps = api.get(f"/lieutenant/lieutenants/{body['name']}").json()["startSteps"]
            parts = ", ".join(f"{each['name']} {each['seconds']:.2f}" for each in steps)
            first = datetime.fromisoformat(steps[0]["at"]).timestamp() - posted
            print(f"start on a warm machine: {seconds:.2f} s (begins at {first:.2f}; {parts})")

    def close(self) -> None:
        for worker in self.workers:
            worker.kill()
        self.writer.kill()
        self.writer.wait()
        for server in self.servers:
            server.stop()
        for keeper in self.home.glob(".reef-agents/lieutenants/*/runs/*/keeper.json"):
            handle = json.loads(keeper.read_text())
            for name in ("agent_pid", "keeper_pid"):
                if handle.get("agent_pid") and Path(f"/proc/{handle[name]}").exists():
                    os.kill(handle[name], 9)


def run(folder: Path, sessions: int, machines: int) -> None:
    """Measure, with the database and the settings of the environment."""
    import django

    django.setup()
    from django.conf import settings
    from django.core.management import call_command

    from reef_site.launcher import redis_server

    call_command("migrate", verbosity=0)
    password = (settings.DATA_DIR / "redis-password").read_text()
    config = redis_server.write_config(settings.RUN_DIR, password)
    redis = subprocess.Popen([str(redis_server.program()), str(config)], stdout=subprocess.DEVNULL)
    bench = Bench(folder, sessions, machines)
    try:
        print(f"load of the machine: {os.getloadavg()[0]:.1f}, {os.cpu_count()} processors")
        bench.connect()
        bench.quiet(SECONDS)
        bench.speak()
        bench.start_warm()
        print(f"load of the machine: {os.getloadavg()[0]:.1f}")
    finally:
        bench.close()
        redis.terminate()
        redis.wait()


def start(words: list[str]) -> None:
    """Run the measurement in a process of its own, beside a PostgreSQL."""
    from reef_site.install.testing_tools import find_postgresql
    from tests.postgres import TEMPLATE, Cluster

    found = find_postgresql()
    assert found, "no PostgreSQL here"
    folder = Path(tempfile.mkdtemp(prefix="reef-bench-"))
    cluster = Cluster(Path(found))
    try:
        cluster.create()
        env = {
            **os.environ,
            "REEF_DATA_DIR": str(folder / "data"),
            "REEF_LOG_LEVEL": "ERROR",
            "REEF_ALLOWED_HOSTS": "testserver",
            "DJANGO_SETTINGS_MODULE": "tests.stack_settings",
            "DATABASE_URL": f"postgres://reef@/{TEMPLATE}?host={cluster.home}",
        }
        argv = [sys.executable, __file__, "run", str(folder), *words]
        subprocess.run(argv, env=env, check=True)
    finally:
        cluster.close()
        shutil.rmtree(folder, ignore_errors=True)


def main(words: list[str]) -> None:
    sys.path.insert(0, str(CHECKOUT))
    if words[:1] == ["write"]:
        write(words[1:], SECONDS)
    elif words[:1] == ["run"]:
        sessions, machines = map(int, words[2:] or ("1000", "100"))
        run(Path(words[1]), sessions, machines)
    else:
        start(words)


if __name__ == "__main__":
    main(sys.argv[1:])
