"""Attends to a pi that an older server has started, in place of the pipes that a keeper has.

Standalone (standard library, Python 3.8 or newer). Such a server leaves a FIFO `in` and the files
`out` and `err` in one folder; the agent runs in tmux.

    attend.py attach FOLDER PID STARTED HOME
        Copies what the agent prints from `out` to stdout, and stdin into `in`. Ends with the agent.
        When stdin ends, the agent goes on; the next one continues at the offset noted in HOME.
        SIGTERM ends the agent in an orderly way, and leaves its session in HOME.
    attend.py end FOLDER PID STARTED
        Ends the agent, its tmux sessions, and the folder.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import select
import shutil
import signal
import stat
import subprocess
import sys
import termios
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

KB, MB = 1 << 10, 1 << 20
OUTPUT_BYTES = 64 * KB  # read at a time
INPUT_BYTES = 16 * MB  # waiting for the agent to read them
HISTORY_BYTES = 256 * MB  # of the output before the agent was taken over
ACTIVE_TICK, QUIET_TICK, ACTIVE_SECONDS = 0.05, 0.25, 5.0
NOTE_SECONDS = 0.2  # how often the offset is noted
GRACE_SECONDS = 4.0  # from SIGTERM to SIGKILL
REST_SECONDS = 2.0  # for the last output
ERROR_BYTES = 2 * KB
PIPE_BYTES = 4 * KB  # of output that is lost if the keeper is killed
F_SETPIPE_SZ = 1031
TMUX_SESSIONS = ("pi-rpc", "pi-keeper")
SESSION = re.compile(rb'"sessionFile":"((?:[^"\\]|\\.)*)"')


class Agent:
    """The agent's process; it is no child of ours."""

    def __init__(self, folder: str, pid: int, started: int) -> None:
        self.folder, self.pid, self.started = folder, pid, started
        self.tmux = self._tmux()

    def _tmux(self) -> list[str]:
        """Return the command for the tmux server that it runs in."""
        try:
            with open(f"/proc/{self.pid}/environ", "rb") as file:
                names = dict(
                    each.split(b"=", 1) for each in file.read().split(b"\0") if b"=" in each
                )
        except OSError:
            names = {}
        socket = os.fsdecode(names.get(b"TMUX", b"").split(b",")[0])
        return ["tmux", "-S", socket] if socket else ["tmux"]

    def is_alive(self) -> bool:
        try:
            with open(f"/proc/{self.pid}/stat", "rb") as file:
                fields = file.read().rpartition(b")")[2].split()
        except OSError:
            return False
        return fields[0] not in (b"Z", b"X") and int(fields[19]) == self.started

    def signal(self, number: int) -> None:
        if self.is_alive():
            with contextlib.suppress(OSError):
                os.kill(self.pid, number)

    def end(self) -> Iterator[None]:
        """End it, and what the older server has left; yields while waiting."""
        self.signal(signal.SIGTERM)
        self.signal(signal.SIGCONT)
        until = time.monotonic() + GRACE_SECONDS
        while self.is_alive():
            if time.monotonic() > until:
                self.signal(signal.SIGKILL)
            yield
        holders = self._holders()
        for name in TMUX_SESSIONS:
            run_quietly([*self.tmux, "kill-session", "-t", "=" + name])
        for pid in holders:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGTERM)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _holders(self) -> list[int]:
        """Return the processes that keep the FIFO open."""
        try:
            fifo = os.stat(os.path.join(self.folder, "in"))
        except OSError:
            return []
        found = []
        for name in os.listdir("/proc"):
            if not name.isdigit() or int(name) == os.getpid():
                continue
            with contextlib.suppress(OSError):
                folder = f"/proc/{name}/fd"
                files = [os.path.join(folder, each) for each in os.listdir(folder)]
                if any(is_same(each, fifo) for each in files):
                    found.append(int(name))
        return found


class Attendant:
    """Copies both ways until one side ends."""

    def __init__(self, agent: Agent, home: str) -> None:
        self.agent, self.home = agent, home
        self.note_path = os.path.join(home, "older-agent.json")
        self.output = os.open(os.path.join(agent.folder, "out"), os.O_RDONLY)
        # Open for both, so that it is never at its end.
        self.input = os.open(os.path.join(agent.folder, "in"), os.O_RDWR | os.O_NONBLOCK)
        self.from_agent, self.to_agent = b"", bytearray()
        self.session, self.recent = "", b""
        self.offset = self._first_offset()
        self.noted = -1
        self.noted_at = self.active_at = time.monotonic()
        self.is_left = self.is_ending = False
        for descriptor in (0, 1):
            os.set_blocking(descriptor, False)
        with contextlib.suppress(OSError):
            fcntl.fcntl(1, F_SETPIPE_SZ, PIPE_BYTES)

    def run(self) -> int:
        """Copy until the agent or the keeper has ended; return the exit status."""
        signal.signal(signal.SIGTERM, self._begin_end)
        while not self.is_left and not self.is_ending:
            is_alive = self.agent.is_alive()
            if not self._copy() and not is_alive:
                return self._report_end()
        if self.is_ending:
            for _ in self.agent.end():
                self._copy()
            self._keep_session()
        self._copy_rest()
        self._note()
        return 0

    def _begin_end(self, *_: object) -> None:
        self.is_ending = True

    def _first_offset(self) -> int:
        note = read_object(self.note_path)
        self.session = str(note.get("session") or "")
        is_known = note.get("pid") == self.agent.pid and note.get("started") == self.agent.started
        if is_known and type(note.get("offset")) is int:
            return int(note["offset"])
        size = os.fstat(self.output).st_size
        if size <= HISTORY_BYTES:
            return 0
        begin = size - HISTORY_BYTES
        while begin < size:
            chunk = os.pread(self.output, OUTPUT_BYTES, begin)
            end = chunk.find(b"\n")
            if end >= 0:
                return begin + end + 1
            begin += max(1, len(chunk))
        return size

    def _copy(self) -> bool:
        """Copy what is there, after waiting a little for it; return whether there was anything."""
        self._read_output()
        now = time.monotonic()
        tick = ACTIVE_TICK if now - self.active_at < ACTIVE_SECONDS else QUIET_TICK
        wanted = [0] if len(self.to_agent) < INPUT_BYTES and not self.is_left else []
        writable = [self.input] if self.to_agent else []
        if self.from_agent:
            writable.append(1)
        readable, writable, _ = select.select(wanted, writable, [], tick)
        if 0 in readable:
            self._read_input()
        if self.input in writable:
            self._write_input()
        if 1 in writable:
            self._write_output()
        if now - self.noted_at > NOTE_SECONDS:
            self._note()
        is_busy = bool(readable or writable or self.from_agent)
        if is_busy:
            self.active_at = now
        return is_busy

    def _read_output(self) -> None:
        if self.from_agent:
            return
        if os.fstat(self.output).st_size < self.offset:
            self.offset = 0  # it was emptied
        self.from_agent = os.pread(self.output, OUTPUT_BYTES, self.offset)
        self.offset += len(self.from_agent)
        self.recent = self.recent[-4 * KB :] + self.from_agent
        for found in SESSION.finditer(self.recent):
            with contextlib.suppress(ValueError):
                self.session = json.loads(b'"' + found.group(1) + b'"')

    def _write_output(self) -> None:
        try:
            done = os.write(1, self.from_agent)
        except BlockingIOError:
            return
        except OSError:
            self.is_left = True  # the keeper was killed
            return
        self.from_agent = self.from_agent[done:]

    def _read_input(self) -> None:
        try:
            chunk = os.read(0, 256 * KB)
        except BlockingIOError:
            return
        self.to_agent += chunk
        self.is_left = not chunk

    def _write_input(self) -> None:
        with contextlib.suppress(BlockingIOError):
            del self.to_agent[: os.write(self.input, self.to_agent[: 64 * KB])]

    def _copy_rest(self) -> None:
        until = time.monotonic() + REST_SECONDS
        while self._copy() and time.monotonic() < until:
            pass

    def _report_end(self) -> int:
        self._note()
        with (
            contextlib.suppress(OSError),
            open(os.path.join(self.agent.folder, "err"), "rb") as file,
        ):
            file.seek(max(0, os.fstat(file.fileno()).st_size - ERROR_BYTES))
            os.write(2, file.read(ERROR_BYTES))
        os.write(2, b"\nthe agent, which an older server had started, has ended\n")
        return 1

    # what stays

    def _note(self) -> None:
        """Note the beginning of the first line that the keeper may not have read."""
        self.noted_at = time.monotonic()
        unread = fcntl.ioctl(1, termios.FIONREAD, b"\0\0\0\0")
        taken = self.offset - len(self.from_agent) - int.from_bytes(unread, sys.byteorder)
        begin = max(0, taken - OUTPUT_BYTES)
        line = os.pread(self.output, taken - begin, begin).rfind(b"\n") + 1
        at = begin + line if line else taken
        if at == self.noted:
            return
        self.noted = at
        facts = {"pid": self.agent.pid, "started": self.agent.started, "offset": at}
        write_object(self.note_path, {**facts, "session": self.session})

    def _keep_session(self) -> None:
        """Leave the agent's session where the lieutenant's next agent looks for it."""
        folder = os.path.join(self.home, "session")
        target = os.path.join(folder, "session.jsonl")
        if not self.session or os.path.exists(target):
            return
        with contextlib.suppress(OSError):
            source = os.open(self.session, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            with open(source, "rb") as file:
                if not stat.S_ISREG(os.fstat(source).st_mode):
                    return
                os.makedirs(folder, mode=0o700, exist_ok=True)
                flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
                with open(os.open(target + ".new", flags, 0o600), "wb") as copy:
                    shutil.copyfileobj(file, copy)
            os.rename(target + ".new", target)


def is_same(path: str, facts: os.stat_result) -> bool:
    try:
        found = os.stat(path)
    except OSError:
        return False
    return (found.st_dev, found.st_ino) == (facts.st_dev, facts.st_ino)


def run_quietly(command: list[str]) -> None:
    quiet = subprocess.DEVNULL
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        subprocess.run(command, stdin=quiet, stdout=quiet, stderr=quiet, timeout=5, check=False)


def read_object(path: str) -> dict[str, Any]:
    try:
        with open(path, "rb") as file:
            value = json.loads(file.read(MB))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def write_object(path: str, value: dict[str, Any]) -> None:
    with contextlib.suppress(OSError):
        with open(path + ".new", "wb") as file:
            file.write(json.dumps(value).encode())
        os.replace(path + ".new", path)


def main(arguments: list[str]) -> int:
    verb, folder, pid, started = arguments[0], arguments[1], int(arguments[2]), int(arguments[3])
    agent = Agent(folder, pid, started)
    if verb == "end":
        for _ in agent.end():
            time.sleep(0.05)
        return 0
    home = arguments[4]
    if not agent.is_alive():
        os.write(2, b"the agent, which an older server had started, has ended\n")
        return 1
    # Whoever looks next sees whose it is.
    write_object(os.path.join(folder, "reef.json"), {"lieutenant": os.path.basename(home)})
    return Attendant(agent, home).run()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
