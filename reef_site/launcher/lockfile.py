"""One reef per data folder: the lock file, processes left by a killed `up`, the port. No Django."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time
from pathlib import Path
from typing import IO

from reef_site.common import locks

# Every process that `up` starts carries this variable, with the data folder as its value.
TAG = "REEF_UP"
# File in the data folder with the session leaders and their start times.
PROCESSES = "up.processes"


def take_lock(path: Path, patience: float = 0.5) -> IO[str] | None:
    """Take the lock of a data folder; return None if another `up` holds it.

    The demo model sometimes takes the lock for a moment to test it, hence `patience`, in seconds.
    Closing the file or the end of the process releases the lock.
    """
    lock = locks.FileLock(path)
    return os.fdopen(lock.descriptor, "a") if lock.take(patience) else None


def record_process(data_dir: Path, pid: int) -> None:
    """Record a session leader, so that it can be found without reading its environment.

    Only root can read the environment of hardened processes. The folder is recorded, too: in a
    copy of the folder the record is void.
    """
    with contextlib.suppress(OSError):
        line = f"{pid} {_stat(pid)[_STARTED]} {_folder_id(data_dir)}\n"
        descriptor = os.open(data_dir / PROCESSES, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(line)


def forget_processes(data_dir: Path) -> None:
    """Delete the records of all processes."""
    (data_dir / PROCESSES).unlink(missing_ok=True)


def tagged(data_dir: Path) -> list[int]:
    """Return the pids of processes that an `up` on this data folder has started, except ours."""
    mark = f"{TAG}={data_dir}".encode()
    leaders = _recorded(data_dir)
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            pid = int(entry.name)
            if pid != os.getpid() and (_is_tagged(entry, mark) or _is_recorded(pid, leaders)):
                found.append(pid)
    return found


# Positions in /proc/<pid>/stat after the program's name.
_STATE, _SESSION, _STARTED = 0, 3, 19


def _stat(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def _is_tagged(entry: Path, mark: bytes) -> bool:
    try:
        return mark in (entry / "environ").read_bytes().split(b"\0")
    except PermissionError:
        return False


def _recorded(data_dir: Path) -> dict[int, str]:
    """Map the recorded session leaders to their start times, in ticks since boot."""
    try:
        lines = (data_dir / PROCESSES).read_text().splitlines()
    except OSError:
        return {}
    found = [line.split() for line in lines]
    own = _folder_id(data_dir)
    return {
        int(fields[0]): fields[1]
        for fields in found
        if len(fields) == 3 and fields[0].isdigit() and fields[2] == own
    }


def _folder_id(data_dir: Path) -> str:
    """Return an identifier of this folder that a copy of it does not share."""
    facts = data_dir.stat()
    return f"{facts.st_dev}:{facts.st_ino}"


def _is_recorded(pid: int, leaders: dict[int, str]) -> bool:
    """Return whether this process belongs to a recorded session."""
    if not leaders:
        return False
    facts = _stat(pid)
    session = int(facts[_SESSION])
    if session not in leaders or facts[_STATE] == "Z":
        return False
    if os.stat(f"/proc/{pid}/task").st_uid not in (os.getuid(), 0):
        return False
    # A different start time means that the pid has been reused.
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return _stat(session)[_STARTED] == leaders[session]
    return True


def clear(data_dir: Path, patience: float = 3.0) -> int:
    """End the processes that a killed `up` left running; return how many there were.

    They get SIGTERM first, and SIGKILL after `patience` seconds. Lieutenants are not among them.
    """
    found_pids = tagged(data_dir)
    for number in (signal.SIGTERM, signal.SIGKILL):
        left = tagged(data_dir)
        _signal(left, number)
        end = time.monotonic() + patience
        while left and time.monotonic() < end:
            time.sleep(0.05)
            left = tagged(data_dir)
    forget_processes(data_dir)
    return len(found_pids)


def _signal(pids: list[int], number: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def port_problem(host: str, port: int) -> str:
    """Return why this address cannot be listened on, in a sentence; empty if it can."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            probe.listen(1)
    except OSError as error:
        return (
            f"cannot listen on {host} port {port}: {error.strerror or error}. "
            "Choose another one with --port (or --host)"
        )
    return ""
