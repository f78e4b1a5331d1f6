"""Commands that the API runs inside VMs: their output while they run, and the part that is
stored.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from reef_site.demo.platform import guest
from reef_site.demo.platform.hosting_base import Hosting
from reef_site.demo.platform.store import new_id, now

CHUNK = 1 << 16
LONGEST, USUAL = 3600, 300


@dataclass(frozen=True)
class Order:
    """A command as it was asked for. No shell is involved."""

    argv: list[str]
    env: dict[str, str]
    stdin: bytes = b""
    folder: str | None = None
    seconds: int = USUAL
    exec_id: str | None = None

    @classmethod
    def of(cls, facts: dict[str, Any]) -> Order:
        """Build from the body of a request."""
        return cls(
            facts["command"],
            facts.get("env") or {},
            (facts.get("stdin") or "").encode(),
            facts.get("working_dir"),
            min(facts.get("timeout_secs") or USUAL, LONGEST),
            facts.get("exec_id"),
        )


@dataclass
class Run:
    """A command with its output so far, in numbered pieces."""

    exec_id: str
    events: list[dict[str, Any]] = field(default_factory=list)
    exit_code: int | None = None
    news: asyncio.Condition = field(default_factory=asyncio.Condition)

    def output(self, stream: str) -> str:
        """All of one stream, what is no UTF-8 replaced."""
        data = [one["data_b64"] for one in self.events if one.get("stream") == stream]
        return b"".join(map(base64.b64decode, data)).decode("utf-8", "replace")

    async def ended(self) -> int:
        """Wait for its end; the exit code."""
        async with self.news:
            await self.news.wait_for(lambda: self.exit_code is not None)
        return self.exit_code or 0

    async def lines(self, after: int) -> AsyncIterator[bytes]:
        """Events with a higher number than this, as they come, to the last."""
        sent = 0
        while True:
            async with self.news:
                await self.news.wait_for(lambda: len(self.events) > sent)  # noqa: B023
                fresh, sent = self.events[sent:], len(self.events)
            for event in fresh:
                if event["cursor"] > after:
                    yield json.dumps(event).encode() + b"\n"
                if event["type"] == "exit":
                    return


@dataclass
class Runs:
    """All commands of one VM, and the log of what they said."""

    known: dict[str, Run] = field(default_factory=dict)
    log: list[dict[str, Any]] = field(default_factory=list)
    size: int = 0
    processes: set[asyncio.subprocess.Process] = field(default_factory=set)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    async def start(self, hosting: Hosting, vm_id: str, order: Order) -> Run:
        """Start a command; it goes on when nobody listens any longer."""
        run = Run(order.exec_id or new_id())
        self.known[run.exec_id] = run
        limited = ["timeout", "--signal=KILL", str(order.seconds), *order.argv]
        home = {"PATH": guest.ROOT_PATH, "HOME": hosting.path(vm_id, "/root")}
        baked = guest.read_environment_file(hosting.environment_file(vm_id))
        process = await asyncio.create_subprocess_exec(
            *hosting.inside(vm_id, guest.in_folder(limited, order.folder)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={**guest.mirror_environment(), **home, **baked, **order.env},
        )
        self.processes.add(process)
        task = asyncio.create_task(self._follow(run, process, order.stdin))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return run

    def wake(self) -> None:
        """Let commands go on whose VM was stopped and goes on."""
        for process in self.processes:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGCONT)

    async def _follow(self, run: Run, process: asyncio.subprocess.Process, stdin: bytes) -> None:
        assert process.stdin
        assert process.stdout
        assert process.stderr
        process.stdin.write(stdin)
        process.stdin.close()
        await asyncio.gather(
            self._read(run, "stdout", process.stdout), self._read(run, "stderr", process.stderr)
        )
        code = await process.wait()
        self.processes.discard(process)
        async with run.news:
            run.exit_code = 128 - code if code < 0 else code
            self._add(run, {"type": "exit", "exit_code": run.exit_code})
            run.news.notify_all()

    async def _read(self, run: Run, stream: str, reader: asyncio.StreamReader) -> None:
        while data := await reader.read(CHUNK):
            text = base64.b64encode(data).decode()
            self.log.append(
                {
                    "timestamp": now(),
                    "stream": stream,
                    "data_b64": text,
                    "exec_id": run.exec_id,
                    "at": self.size,
                }
            )
            self.size += len(data)
            async with run.news:
                self._add(run, {"type": "chunk", "stream": stream, "data_b64": text})
                run.news.notify_all()

    @staticmethod
    def _add(run: Run, event: dict[str, Any]) -> None:
        run.events.append({**event, "cursor": len(run.events) + 1, "exec_id": run.exec_id})
