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
MAX_SECONDS, DEFAULT_SECONDS = 3600, 300


@dataclass(frozen=True)
class Command:
    """A requested command. It does not run in a shell."""

    argv: list[str]
    env: dict[str, str]
    stdin: bytes = b""
    folder: str | None = None
    seconds: int = DEFAULT_SECONDS
    exec_id: str | None = None

    @classmethod
    def of(cls, facts: dict[str, Any]) -> Command:
        """Build from the body of a request."""
        return cls(
            facts["command"],
            facts.get("env") or {},
            (facts.get("stdin") or "").encode(),
            facts.get("working_dir"),
            min(facts.get("timeout_secs") or DEFAULT_SECONDS, MAX_SECONDS),
            facts.get("exec_id"),
        )


@dataclass
class Run:
    """A command with its output so far, in numbered pieces."""

    exec_id: str
    events: list[dict[str, Any]] = field(default_factory=list)
    exit_code: int | None = None
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    def output(self, stream: str) -> str:
        """Return all output of one stream as text; invalid UTF-8 is replaced."""
        data = [one["data_b64"] for one in self.events if one.get("stream") == stream]
        return b"".join(map(base64.b64decode, data)).decode("utf-8", "replace")

    async def wait_for_exit(self) -> int:
        """Wait for the end of the command and return its exit code."""
        async with self.changed:
            await self.changed.wait_for(lambda: self.exit_code is not None)
        return self.exit_code or 0

    async def stream_events(self, after: int) -> AsyncIterator[bytes]:
        """Yield events with a number above `after` as JSON lines, until the command has ended."""
        sent = 0
        while True:
            async with self.changed:
                await self.changed.wait_for(lambda: len(self.events) > sent)  # noqa: B023
                fresh, sent = self.events[sent:], len(self.events)
            for event in fresh:
                if event["cursor"] > after:
                    yield json.dumps(event).encode() + b"\n"
                if event["type"] == "exit":
                    return


@dataclass
class Runs:
    """All commands of one VM, and the log of their output."""

    known: dict[str, Run] = field(default_factory=dict)
    log: list[dict[str, Any]] = field(default_factory=list)
    size: int = 0
    processes: set[asyncio.subprocess.Process] = field(default_factory=set)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    async def start(self, hosting: Hosting, vm_id: str, command: Command) -> Run:
        """Start a command. It continues without listeners."""
        run = Run(command.exec_id or new_id())
        self.known[run.exec_id] = run
        limited = ["timeout", "--signal=KILL", str(command.seconds), *command.argv]
        home = {"PATH": guest.ROOT_PATH, "HOME": hosting.path(vm_id, "/root")}
        baked = guest.read_environment_file(hosting.environment_file(vm_id))
        process = await asyncio.create_subprocess_exec(
            *hosting.command_inside(vm_id, guest.in_folder(limited, command.folder)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={**guest.mirror_environment(), **home, **baked, **command.env},
        )
        self.processes.add(process)
        task = asyncio.create_task(self._follow(run, process, command.stdin))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return run

    def resume(self) -> None:
        """Continue our side of the commands after the VM was paused."""
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
        async with run.changed:
            run.exit_code = 128 - code if code < 0 else code
            self._add(run, {"type": "exit", "exit_code": run.exit_code})
            run.changed.notify_all()

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
            async with run.changed:
                self._add(run, {"type": "chunk", "stream": stream, "data_b64": text})
                run.changed.notify_all()

    @staticmethod
    def _add(run: Run, event: dict[str, Any]) -> None:
        run.events.append({**event, "cursor": len(run.events) + 1, "exec_id": run.exec_id})
