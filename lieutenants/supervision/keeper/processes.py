"""Processes in /proc, and the end of all that belong to a run."""

from __future__ import annotations

import contextlib
import os
import signal
import time

from .journal import log_problem
from .json_lines import parse_object
from .limits import SWEEP_SECONDS

TYPE_CHECKING = False  # importing typing would cost a megabyte
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any


class Process:
    """A process, identified by its pid and start time (in clock ticks)."""

    __slots__ = ("pid", "session", "started", "state")

    def __init__(self, pid: int) -> None:
        """Raises OSError if there is no such process."""
        with open("/proc/{}/stat".format(pid), "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
        self.pid = pid
        self.state = fields[0]
        self.session = int(fields[3])
        self.started = int(fields[19])

    def signal(self, number: int) -> None:
        try:
            if Process(self.pid).started == self.started:
                os.kill(self.pid, number)
        except OSError:
            pass

    def gone(self) -> bool:
        try:
            now = Process(self.pid)
        except OSError:
            return True
        return now.started != self.started or now.state in (b"Z", b"X")


def started(pid: int) -> int:
    return Process(pid).started


def has_variable(pid: int, entry: bytes) -> bool:
    """Return whether a process has this entry (NAME=value) in its environment."""
    with open("/proc/{}/environ".format(pid), "rb") as file:
        return b"\0" + entry + b"\0" in b"\0" + file.read() + b"\0"


def parent_of(pid: int) -> int:
    with open("/proc/{}/stat".format(pid), "rb") as file:
        return int(file.read().rpartition(b")")[2].split()[1])


def descendants(pid: int) -> list[int]:
    """Return the current descendants of this process."""
    children: dict[int, list[int]] = {}
    for each in [int(name) for name in os.listdir("/proc") if name.isdigit()]:
        with contextlib.suppress(OSError, IndexError, ValueError):
            children.setdefault(parent_of(each), []).append(each)
    found, left = [], [pid]
    while left:
        below = children.get(left.pop(), [])
        found += below
        left += below
    return found


def user_of(pid: int) -> int:
    """Return the real user of a process, even if its files in /proc belong to root."""
    with open("/proc/{}/status".format(pid), "rb") as file:
        return int(file.read().partition(b"\nUid:")[2].split(None, 1)[0])


def agents_sharing_user(user: int, lieutenants: str) -> dict[int, bytes]:
    """Map sessions of other running agents with the same user to their tags.

    `lieutenants` is the folder that holds all lieutenants' folders.
    """
    found = {}
    for owner in os.listdir(lieutenants):
        for facts in read_keeper_files(os.path.join(lieutenants, owner, "runs")):
            agent = facts.get("agent_pid")
            shares = facts.get("uid") == user and not facts.get("own_user")
            with contextlib.suppress(OSError):
                if not (shares and isinstance(agent, int)):
                    continue
                if started(agent) == facts.get("agent_started"):
                    found[agent] = os.fsencode("REEF_LIEUTENANT=" + owner)
    return found


def read_keeper_files(runs: str) -> Iterator[dict[str, Any]]:
    """Yield the contents of keeper.json of each run in this folder."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        for run in os.listdir(runs):
            path = os.path.join(runs, run, "keeper.json")
            with contextlib.suppress(OSError), open(path, "rb") as file:
                yield parse_object(file.read()) or {}


def find_remaining(
    tag: str, session: int, user: int, below: int, spared: dict[int, bytes]
) -> list[Process]:
    """Return the processes of a run.

    These have the tag in their environment, or belong to the session or the user, or descend from
    `below`. Zeros and an empty tag match nothing. Our own process, the one that waits for our
    start, and agents in `spared`, which share the user, are excluded.
    """
    wanted, mine = os.fsencode(tag), (os.getpid(), os.getppid())
    owners = {os.geteuid(), user} if user else {os.geteuid()}
    inside = set(descendants(below)) if below else set()
    found = []
    for pid in [int(name) for name in os.listdir("/proc") if name.isdigit()]:
        try:
            owner = user_of(pid)
            if pid in mine or owner not in owners:
                continue
            process = Process(pid)
            ours = pid in inside or (session and process.session == session)
            if not ours and user and owner == user:
                other = spared and any(has_variable(pid, each) for each in spared.values())
                ours = process.session not in spared and not other
            if process.state != b"Z" and (ours or (wanted and has_variable(pid, wanted))):
                found.append(process)
        except (OSError, ValueError, IndexError):
            continue  # it has ended meanwhile
    return found


def kill_all_of(user: int) -> None:
    """Kill all processes of a user at once, however quickly they fork."""
    pid = os.fork()
    if pid == 0:
        try:
            os.setgroups([])
            os.setresgid(user, user, user)
            os.setresuid(user, user, user)
            os.kill(-1, signal.SIGKILL)
        finally:
            os._exit(0)
    os.waitpid(pid, 0)


def sweep(tag: str, session: int = 0, user: int = 0, below: int = 0, lieutenants: str = "") -> None:
    """End processes of `find_remaining`: SIGTERM, a second later SIGKILL, until all are gone."""
    begun = time.monotonic()
    while True:
        spared = agents_sharing_user(user, lieutenants) if user and lieutenants else {}
        found = find_remaining(tag, session, user, below, spared)
        if not found:
            return
        late = time.monotonic() - begun
        if late > 3 * SWEEP_SECONDS:
            log_problem("sweep: {} processes do not end".format(len(found)))
            return
        if user and not spared and late >= SWEEP_SECONDS:
            kill_all_of(user)
        for process in found:
            process.signal(signal.SIGKILL if late >= SWEEP_SECONDS else signal.SIGTERM)
            process.signal(signal.SIGCONT)
        _await_gone(found, max(begun + SWEEP_SECONDS, time.monotonic() + 0.1))


def _await_gone(processes: list[Process], until: float) -> None:
    while time.monotonic() < until and not all(process.gone() for process in processes):
        time.sleep(0.01)


def boot_id() -> str:
    """Return the kernel's id of this boot, in which pids and start times are valid.

    Empty where it is unknown.
    """
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            return file.read().strip()
    except OSError:
        return ""
