"""Bench of the follower with many journals: `python tests/bench/follower.py`.

(a) 200 sessions whose keepers together write 5,000 lines a second: the lag from line to committed
row; (b) 400,000 lines that waited; (c) write transactions for 20 and for 200 sessions at the same
total rate; (d) processor time of passes and checks with the same lines each time, which other load
on the machine changes little. SQLite in a folder of its own, unless DATABASE_URL names an empty
database; a Redis. With a name (`lag 200`, `backlog 200`, `steps 200`) it runs that part only; a
third word `profile` profiles it.
"""

from __future__ import annotations

import cProfile
import fcntl
import json
import os
import pstats
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).resolve().parents[2]
RATE = 5000
SECONDS = 10
BACKLOG = 400_000
TICK = 0.02


def dumps(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode() + b"\n"


def event(kind: str, **fields: Any) -> bytes:
    return dumps(["e", int(time.time() * 1000), {"type": kind, **fields}])


def conversation() -> Iterator[bytes]:
    """Yield a keeper's lines endlessly: turns of two answers of 48 deltas with a tool call between.

    Each delta begins with the time of its writing, in seconds, to measure its lag.
    """
    usage = {"input": 610, "output": 48, "cacheRead": 0, "cacheWrite": 0, "cost": {"total": 0.001}}
    call = {"type": "toolCall", "id": "call", "name": "bash", "arguments": {"command": "ls -l"}}
    output = {"content": [{"type": "text", "text": "total 0\n" * 20}]}
    ask = {"role": "user", "content": [{"type": "text", "text": "what is here?"}]}
    while True:
        yield event("agent_start")
        yield event("message_end", message=ask)
        for calls in ([call], []):
            text = ""
            for _ in range(48):
                text += (delta := f"{time.time():.4f} some words of an answer ")
                yield dumps(["t", 0, delta])
            content = [{"type": "text", "text": text}, *calls]
            message = {"role": "assistant", "content": content, "usage": usage, "model": "m"}
            yield event("message_end", message={**message, "stopReason": "stop"})
            if calls:
                names = {"toolCallId": "call", "toolName": "bash"}
                yield event("tool_execution_start", **names)
                yield event("tool_execution_update", **names, partialResult=output)
                yield event("tool_execution_end", **names, result=output)
                yield event("message_end", message={"role": "toolResult", **names, **output})
        yield event("agent_end")
        yield event("agent_settled")


def write_steadily(files: list[str]) -> None:
    """Write to all journals in turn, `RATE` lines a second in all, for `SECONDS`."""
    journals = [os.open(name, os.O_WRONLY | os.O_APPEND) for name in files]
    talks = [conversation() for _ in journals]
    for number, talk in enumerate(talks):
        os.write(journals[number], event("agent_start"))
        for _ in range(1 + number % 100):
            next(talk)  # so that the journals are at different points of their turns
    begun, written = time.monotonic(), 0
    while (now := time.monotonic() - begun) < SECONDS:
        due = int(now * RATE)
        for number in range(written, due):
            place = number % len(journals)
            os.write(journals[place], next(talks[place]))
        written = due
        time.sleep(TICK)
    print(written + len(journals))


class Bench:
    """A database with lieutenants whose keepers are replaced by files that a writer fills."""

    def __init__(self, sessions: int) -> None:
        import django

        django.setup()
        from django.conf import settings
        from django.core.management import call_command

        from reef_site.launcher import redis_server

        call_command("migrate", verbosity=0)
        socket = settings.RUN_DIR / "redis.sock"
        password = (settings.DATA_DIR / "redis-password").read_text()
        config = redis_server.write_config(settings.RUN_DIR, password)
        argv = [str(redis_server.program()), str(config)]
        self.redis = subprocess.Popen(argv, stdout=subprocess.DEVNULL)
        while not socket.exists():
            time.sleep(0.02)
        self.journals = [self._session(number) for number in range(sessions)]
        # There is no keeper that could receive commands.
        from lieutenants.supervision.transports.local import LocalTransport

        LocalTransport.send = lambda *_: None  # type: ignore[method-assign]
        self.lags: list[float] = []
        self.lines = self.commits = 0
        self.last = 0.0

    def _session(self, number: int) -> str:
        from django.conf import settings

        from lieutenants import membership
        from lieutenants.models import Lieutenant, Process
        from lieutenants.supervision.transports.local import _is_running

        fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        handle = {"keeper_pid": os.getpid(), "keeper_started": int(fields[19])}
        assert _is_running(*handle.values())
        lieutenant = Lieutenant.objects.create(
            name=f"l{number}", role="bench", host=settings.HOST, status="idle"
        )
        # As `services.create` does, so that the follower's first pass need not.
        membership.register(lieutenant, actor="bench")
        folder = settings.LIEUTENANTS_DIR / lieutenant.pk / "runs" / "run"
        folder.mkdir(parents=True)
        Process.objects.create(
            lieutenant=lieutenant,
            host=settings.HOST,
            transport="local",
            directory=str(folder),
            handle=handle,
            ready_at=lieutenant.created_at,
        )
        # Like a keeper: a locked folder with a socket.
        fcntl.flock(os.open(folder, os.O_RDONLY), fcntl.LOCK_EX)
        (folder / "control.sock").touch()
        (folder / "journal.jsonl").touch()
        return str(folder / "journal.jsonl")

    def count(self) -> None:
        """Instrument the follower: lags, lines, and what is committed."""
        from django.db.backends.base.base import BaseDatabaseWrapper

        from lieutenants.supervision.follower import Follower

        database: Any = BaseDatabaseWrapper
        followers: Any = Follower
        really_commit, really_pass = database._commit, followers._commit

        def commit(connection: Any) -> Any:
            self.commits += 1
            return really_commit(connection)

        def run_pass(follower: Any, news: Any, *rest: Any) -> Any:
            done = really_pass(follower, news, *rest)
            now = self.last = time.time()
            for _, records, _ in news:
                self.lines += len(records)
                self.lags += [
                    now - float(each[2].split(" ", 1)[0]) for each in records if each[0] == "t"
                ]
            return done

        database._commit, followers._commit = commit, run_pass

    def follow(self, goal: int, before: Callable[[], None] = lambda: None) -> tuple[float, float]:
        """Follow until so many lines are committed; return wall and processor seconds."""
        from lieutenants.supervision.follower import Follower

        self.follower = Follower()

        def watch() -> None:
            while self.lines < (goal or self.written):
                time.sleep(0.05)
            self.follower.stop()

        threading.Thread(target=watch, daemon=True).start()
        before()
        begun, cpu = time.time(), _cpu()
        self.follower.run()
        return self.last - begun, _cpu() - cpu

    written = 1 << 60

    def write(self) -> None:
        """Run the writer as a separate process, which reports how much it wrote."""
        while len(self.follower.sessions) < len(self.journals):
            time.sleep(0.05)
        command = [sys.executable, __file__, "write", *self.journals]
        done = subprocess.run(command, capture_output=True, check=True, text=True)
        self.written = int(done.stdout)

    def close(self) -> None:
        self.redis.terminate()
        self.redis.wait()


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def at(fraction: float, values: list[float]) -> float:
    """Return a quantile in milliseconds."""
    return sorted(values)[int(fraction * (len(values) - 1))] * 1000


def bench_lag(bench: Bench) -> None:
    writer = threading.Thread(target=bench.write)
    seconds, cpu = bench.follow(0, writer.start)
    writer.join()
    print(
        f"{len(bench.journals)} sessions, {bench.written / SECONDS:,.0f} lines/s for {SECONDS} s: "
        f"lag p50 {at(0.5, bench.lags):.0f} ms, p95 {at(0.95, bench.lags):.0f} ms, "
        f"worst {at(1, bench.lags):.0f} ms; {bench.commits} write transactions "
        f"({bench.commits / seconds:.1f} a second); processor {100 * cpu / seconds:.0f} %"
    )


def bench_backlog(bench: Bench) -> None:
    each = BACKLOG // len(bench.journals)
    for name in bench.journals:
        talk = conversation()
        Path(name).write_bytes(b"".join(next(talk) for _ in range(each)))
    size = sum(Path(name).stat().st_size for name in bench.journals)
    seconds, cpu = bench.follow(each * len(bench.journals))
    print(
        f"{bench.lines:,} waiting lines ({size / 1e6:.0f} MB) of {len(bench.journals)} sessions: "
        f"{bench.lines / seconds:,.0f} lines/s, {bench.commits} write transactions, "
        f"processor {100 * cpu / seconds:.0f} % ({bench.lines / cpu:,.0f} lines a second of it)"
    )


def bench_steps(bench: Bench) -> None:
    """Call the follower's parts one by one: ten passes a second, and the checks once a second."""
    from lieutenants.supervision.follower import Follower

    follower = Follower()
    talks = [conversation() for _ in bench.journals]
    used = {"passes": 0.0, "checks": 0.0}
    lines = RATE // 10

    def measure(part: str, work: Callable[[], object]) -> None:
        began = time.thread_time()
        work()
        used[part] += time.thread_time() - began

    follower.refresh()
    for step in range(10 * SECONDS):
        for number in range(step * lines, (step + 1) * lines):
            journal = number % len(talks)
            with open(bench.journals[journal], "ab") as file:
                file.write(next(talks[journal]))
        measure("passes", lambda: follower.follow(time.monotonic()))
        if step % 10 == 9:
            measure("checks", follower.refresh)
    print(
        f"{len(talks)} sessions, {RATE:,} lines/s for {SECONDS} s step by step: processor "
        f"{used['passes']:.2f} s for passes, {used['checks']:.2f} s for checks"
    )


def run(scenario: str, sessions: int, profile: bool) -> None:
    bench = Bench(sessions)
    bench.count()
    work = {"lag": bench_lag, "backlog": bench_backlog, "steps": bench_steps}[scenario]
    try:
        if profile:
            profiler = cProfile.Profile()
            profiler.runcall(work, bench)
            pstats.Stats(profiler).sort_stats("cumtime").print_stats(
                "lieutenants|ledger|bulk_create|exists|first|get_or|query.py.*(get|update|create)",
                45,
            )
        else:
            work(bench)
    finally:
        bench.close()


def main(words: list[str]) -> None:
    if words[:1] == ["write"]:
        write_steadily(words[1:])
    elif words:
        sys.path.insert(0, str(CHECKOUT))
        with tempfile.TemporaryDirectory(prefix="reef-bench-") as folder:
            os.environ["REEF_DATA_DIR"] = folder
            os.environ["REEF_LOG_LEVEL"] = "ERROR"
            os.environ["DJANGO_SETTINGS_MODULE"] = "reef_site.settings"
            run(words[0], int(words[1]), words[2:] == ["profile"])
    else:
        for scenario, sessions in (("lag", 200), ("lag", 20), ("backlog", 200), ("steps", 200)):
            subprocess.run([sys.executable, __file__, scenario, str(sessions)], check=True)


if __name__ == "__main__":
    main(sys.argv[1:])
