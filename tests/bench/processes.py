"""Processor time and memory of the processes of a `Stack`, for benches."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from tests.stack import Stack

TICKS = os.sysconf("SC_CLK_TCK")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def cpu(stack: Stack) -> dict[str, float]:
    """Return the seconds of processor time of each component with all its processes."""
    found = dict.fromkeys(stack.processes, 0.0)
    for name, words in _statuses(stack):
        found[name] += sum(int(word) for word in words[11:13]) / TICKS
    return found


def resident(stack: Stack) -> dict[str, int]:
    """Return the resident bytes of each component with all its processes."""
    found = dict.fromkeys(stack.processes, 0)
    for name, words in _statuses(stack):
        found[name] += int(words[21]) * PAGE_BYTES
    return found


def _statuses(stack: Stack) -> list[tuple[str, list[str]]]:
    """Return component and fields of `/proc/<pid>/stat`, from the state on, of each process."""
    groups = {process.pid: name for name, process in stack.processes.items()}
    found = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            words = entry.read_text().rpartition(")")[2].split()
            if name := groups.get(int(words[2])):
                found.append((name, words))
    return found
