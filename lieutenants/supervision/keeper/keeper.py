"""The keeper of one agent: what happens, and what is done about it."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time

from .commands import Outbox, StopSequence
from .control import ControlServer, refusal, seconds
from .journal import Journal, StderrLog, log_problem, now_ms
from .json_lines import dig
from .limits import (
    DRAIN_SECONDS,
    FILE_CHECK_SECONDS,
    KB,
    READ_BYTES,
    READS_PER_ROUND,
    STDOUT_CLOSED_SECONDS,
)
from .lines import LineSplitter
from .loop import Loop, guard
from .memory_kills import MemoryKills
from .pipes import read_some
from .processes import sweep
from .recorder import Recorder
from .run_files import RunFiles, remove, write_file

TYPE_CHECKING = False  # importing typing would cost a megabyte
if TYPE_CHECKING:
    import socket
    from typing import Any

    from .agent import Agent
    from .spec import Spec


class Keeper:
    """One loop over the agent's pipes, the control socket, our signals and a few timers."""

    def __init__(
        self, spec: Spec, agent: Agent, listener: socket.socket, wakeup: int, key: str
    ) -> None:
        self._spec = spec
        self._agent = agent
        self._loop = Loop()
        self._files = RunFiles(key, listener)
        self._control = ControlServer(self._loop, self._files, key, self._reply)
        self._kills = MemoryKills()
        self._wakeup = wakeup
        self._journal = Journal("journal.jsonl")
        self._stderr = StderrLog("stderr.log", spec.warnings, self._record_warning)
        self._stopping = StopSequence(agent)
        self._recorder = Recorder(self._journal, self._stopping.on_response, self._kills.are_new)
        self._outbox = Outbox(agent.stdin, self._recorder.sent)
        self._splitter = LineSplitter()
        self._stdout_closed_due: float | None = None
        self._read_due: float | None = None  # set while the agent's output is not read
        self._error: str | None = None
        self._ended = False
        # That of the newest follower which has sent a request.
        self._generation = 0

    def begin(self) -> None:
        """Write the first record and queue the agent's first commands."""
        agent = {"agent_pid": self._agent.pid, "agent_started": self._agent.started}
        self._journal.add(["b", now_ms(), {"run": self._spec.run, **agent}])
        self._journal.tick(time.monotonic())
        for line in self._spec.hello:
            ident = line.get("id")
            self._outbox.push(ident if isinstance(ident, str) else "", line)

    def remember_facts(self, facts: bytes) -> None:
        """Remember the contents of keeper.json."""
        self._files.remember_facts(facts)

    def run(self) -> None:
        """Run until the agent has ended and its end is recorded."""
        self._loop.watch(self._wakeup, self._read_signals)
        self._loop.watch(self._agent.stdout, self._read_stdout)
        self._loop.watch(self._agent.stderr, self._read_stderr)
        self._control.open()
        guard(self._read_signals)
        while not self._ended:
            guard(self._write_stdin)
            guard(self._tick)
            self._loop.wait(self._timeout())
        self._finish()

    # time

    def _tick(self) -> None:
        now = time.monotonic()
        for timer in (*self._recorder.timers, self._stopping):
            timer.tick(now)
        if self._files.due is not None and now >= self._files.due:
            self._files.due = now + FILE_CHECK_SECONDS
            self._control.restore()
        if self._stdout_closed_due is not None and now >= self._stdout_closed_due:
            self._stop_without_stdout()
        if self._read_due is not None and now >= self._read_due:
            self._resume_reading()
        self._journal.tick(now)

    def _timeout(self) -> int | None:
        """Return milliseconds until the next timer; None if there is none."""
        timers = (*self._recorder.timers, self._stopping, self._journal, self._files)
        dues = [timer.due for timer in timers if timer.due is not None]
        dues += [due for due in (self._stdout_closed_due, self._read_due) if due is not None]
        return max(0, int((min(dues) - time.monotonic()) * 1000) + 1) if dues else None

    def _stop_without_stdout(self) -> None:
        self._stdout_closed_due = None
        if not self._stopping.begun:
            self._error = "the agent closed its output and went on"
            log_problem(self._error)
            self._stopping.begin(self._spec.stop_seconds)

    # signals and the agent's pipes

    def _read_signals(self) -> None:
        try:
            numbers = os.read(self._wakeup, 4 * KB)
        except BlockingIOError:
            numbers = b""
        if (signal.SIGTERM in numbers or signal.SIGINT in numbers) and not self._stopping.begun:
            self._stopping.begin(self._spec.stop_seconds)
        if signal.SIGIO in numbers:
            self._control.restore()
        self._ended = self._agent.ended()
        self._reap_orphans()

    def _reap_orphans(self) -> None:
        """Reap processes that the agent's children left to us."""
        path = "/proc/self/task/{}/children".format(os.getpid())
        with contextlib.suppress(FileNotFoundError), open(path, "rb") as file:
            for child in map(int, file.read().split()):
                if child != self._agent.pid:
                    with contextlib.suppress(ChildProcessError):
                        os.waitpid(child, os.WNOHANG)

    def _read_stdout(self) -> None:
        for _ in range(READS_PER_ROUND):
            chunk = read_some(self._agent.stdout)
            if chunk is None:
                return
            if not chunk:
                self._loop.unwatch(self._agent.stdout)
                self._stdout_closed_due = time.monotonic() + STDOUT_CLOSED_SECONDS
                return
            self._take(chunk)
            wait = self._recorder.wait(time.monotonic())
            if wait:
                self._loop.unwatch(self._agent.stdout)
                self._read_due = time.monotonic() + wait
                return
            if len(chunk) < READ_BYTES:
                return  # the pipe is empty

    def _resume_reading(self) -> None:
        self._read_due = None
        self._loop.watch(self._agent.stdout, self._read_stdout)

    def _take(self, chunk: bytes) -> None:
        now = time.monotonic()
        self._kills.refresh(now)
        for line in self._splitter.feed(chunk):
            guard(self._recorder.take, line, now)

    def _read_stderr(self) -> None:
        chunk = read_some(self._agent.stderr)
        if chunk:
            self._stderr.add(chunk)
        elif chunk is not None:
            self._loop.unwatch(self._agent.stderr)

    def _record_warning(self, line: str) -> None:
        """Record a line of stderr with one of the texts in the spec's `warnings`."""
        self._journal.add(["w", now_ms(), line])

    def _write_stdin(self) -> None:
        self._outbox.write()
        if self._outbox.bytes:
            self._loop.watch(self._agent.stdin, self._write_stdin, select.POLLOUT)
        else:
            self._loop.unwatch(self._agent.stdin)

    # requests

    def _reply(self, request: dict[str, Any]) -> dict[str, Any]:
        generation = request.get("generation")
        if type(generation) is int:
            if generation < self._generation:
                answer = refusal("another follower has taken this agent over")
                return {**answer, "generation": self._generation}
            self._obey(generation)
        if request.get("op") == "send":
            return self._send(request)
        if request.get("op") == "state":
            return self._state()
        if request.get("op") == "stop":
            return self._stop(request)
        return refusal("unknown op: {!r}".format(request.get("op")))

    def _obey(self, generation: int) -> None:
        """Remember the follower, also in a file, for requests that go around the keeper."""
        if generation > self._generation:
            self._generation = generation
            try:
                write_file("generation", str(generation).encode())
            except OSError as trouble:
                log_problem("cannot keep the generation: {}".format(trouble.strerror))

    def _send(self, request: dict[str, Any]) -> dict[str, Any]:
        ident, line = request.get("id"), request.get("line")
        if not isinstance(ident, str) or not ident:
            return refusal("id must be a text that is not empty")
        if not isinstance(line, dict):
            return refusal("line must be a JSON object")
        if self._stopping.begun:
            return refusal("the agent is being stopped")
        return self._outbox.push(ident, line)

    def _state(self) -> dict[str, Any]:
        return {
            "ok": True,
            "keeper_pid": os.getpid(),
            "agent_pid": self._agent.pid,
            "agent_started": self._agent.started,
            "journal": self._journal.size,
            "buffered": self._outbox.bytes,
            "stopping": self._stopping.begun,
            "generation": self._generation,
        }

    def _stop(self, request: dict[str, Any]) -> dict[str, Any]:
        if self._stopping.begun:
            return {"ok": True, "repeated": True}
        final_command, ident = request.get("farewell"), dig(request, "farewell", "id")
        if not isinstance(final_command, dict) or not isinstance(ident, str):
            ident = ""
        else:
            self._outbox.push(ident, final_command)
        wait = seconds(request.get("farewell_wait"), 3.0)
        self._stopping.begin(seconds(request.get("grace"), self._spec.stop_seconds), ident, wait)
        return {"ok": True}

    # the end

    def _finish(self) -> None:
        """Read the agent's last output, end its remaining processes, write the end record."""
        guard(self._drain)
        self._journal.tick(time.monotonic())
        spec = self._spec
        guard(*(sweep, spec.tag, self._agent.pid, spec.own_user, os.getpid(), spec.lieutenants))
        code, number = self._agent.reap()
        end: dict[str, Any] = {"code": code, "signal": number}
        end["stderr"] = self._stderr.last_lines()
        if (number == signal.SIGKILL or code == 128 + signal.SIGKILL) and self._kills.are_new():
            end["killed_for_memory"] = True
        end["stopped"] = self._stopping.begun and self._error is None
        if self._error is not None:
            end["error"] = self._error
        self._journal.add(["x", now_ms(), end])
        self._journal.finish()
        remove("control.sock")

    def _drain(self) -> None:
        """Read what the pipes hold now.

        A grandchild may keep them open, so their end is not awaited.
        """
        until = time.monotonic() + DRAIN_SECONDS
        for descriptor, take in (
            (self._agent.stdout, self._take),
            (self._agent.stderr, self._stderr.add),
        ):
            chunk = read_some(descriptor)
            while chunk:
                take(chunk)
                chunk = read_some(descriptor) if time.monotonic() < until else None
        rest = self._splitter.rest()
        if rest is not None:
            self._recorder.take(rest, time.monotonic())
        self._recorder.finish()
