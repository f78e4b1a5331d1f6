"""One reef a data folder: its lock, what a killed one left running, and the port. No Django."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import socket
import time
from pathlib import Path
from typing import IO

# Every process that `up` starts carries this variable, with the data folder as its value.
TAG = "REEF_UP"


def take_lock(path: Path, patience: float = 0.5) -> IO[str] | None:
    """Take the lock of a data folder; None if another `up` has it.

    The demo model looks now and then whether the lock is held, by taking it for a moment: hence
    the patience, in seconds. The lock is free when the file is closed or its process has ended.
    """
    file = path.open("a")
    end = time.monotonic() + patience
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > end:
                file.close()
                return None
            time.sleep(0.05)
        else:
            return file


def tagged(data_dir: Path) -> list[int]:
    """The pids of our processes that an `up` on this data folder has started, except our own."""
    mark = f"{TAG}={data_dir}".encode()
    found = []
    for entry in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            pid = int(entry.parent.name)
            if pid != os.getpid() and mark in entry.read_bytes().split(b"\0"):
                found.append(pid)
    return found


def clear(data_dir: Path, patience: float = 3.0) -> int:
    """End what an `up` that was killed left running; return how many processes that were.

    They are asked first and have `patience` seconds to go. Lieutenants are not among them.
    """
    asked = tagged(data_dir)
    for number in (signal.SIGTERM, signal.SIGKILL):
        left = tagged(data_dir)
        _signal(left, number)
        end = time.monotonic() + patience
        while left and time.monotonic() < end:
            time.sleep(0.05)
            left = tagged(data_dir)
    return len(asked)


def _signal(pids: list[int], number: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def port_problem(host: str, port: int) -> str:
    """Why we can't listen there, in a sentence; empty if we can."""
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
