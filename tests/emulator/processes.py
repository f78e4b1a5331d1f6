"""Which processes of this machine are an emulator's own, and their end."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path

# Every process of an emulator but those started over SSH has this in its environment.
TAG = "VM_EMULATOR_TAG"


def with_mark(name: str, value: str) -> list[int]:
    """Pids of living processes whose environment holds this, but not our own."""
    wanted = f"{name}={value}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        with contextlib.suppress(OSError):
            if wanted in (entry / "environ").read_bytes().split(b"\0"):
                found.append(int(entry.name))
    return found


def parents() -> dict[int, int]:
    """The parent of each process."""
    table = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError, IndexError, ValueError):
                text = (entry / "stat").read_text()
                table[int(entry.name)] = int(text.rpartition(")")[2].split()[1])
    return table


def family(roots: list[int]) -> list[int]:
    """These processes and all below them."""
    table, found = parents(), set(roots)
    while more := {pid for pid, parent in table.items() if parent in found} - found:
        found |= more
    return sorted(found)


def end_all(tag: str) -> None:
    """Kill whatever carries the tag, and wait until it is gone."""
    end = time.monotonic() + 10
    while (left := with_mark(TAG, tag)) and time.monotonic() < end:
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)


def alive(pid: int) -> bool:
    """Whether it runs, or could: not when it only waits to be collected."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return text.rpartition(")")[2].split()[0] not in ("Z", "X")
