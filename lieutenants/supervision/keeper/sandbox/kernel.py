"""System calls that Python has no function for, and paths whose places are checked."""

from __future__ import annotations

import ctypes
import os

TYPE_CHECKING = False  # importing typing would cost a megabyte
if TYPE_CHECKING:
    from typing import Any

PR_SET_DUMPABLE, PR_CAPBSET_DROP, PR_SET_CHILD_SUBREAPER = 4, 24, 36
PR_SET_NO_NEW_PRIVS, PR_CAP_AMBIENT = 38, 47
PR_CAP_AMBIENT_CLEAR_ALL = 4
# Paths with known identity (device and inode), see `enter`.
known_places: dict[str, list[int]] = {}
libc = ctypes.CDLL(None, use_errno=True)


class SandboxError(Exception):
    """The process cannot be confined as requested; the text names the failed step and the cause."""


def check(result: int, step: str) -> int:
    if result < 0:
        raise SandboxError("{}: {}".format(step, os.strerror(ctypes.get_errno())))
    return result


def prctl(option: int, *values: int) -> int:
    arguments = [ctypes.c_ulong(value) for value in (*values, 0, 0, 0, 0)[:4]]
    return int(libc.prctl(ctypes.c_int(option), *arguments))


def syscall(number: int, *arguments: Any) -> int:
    return int(libc.syscall(ctypes.c_long(number), *arguments))


def set_dumpable(dumpable: bool) -> None:
    """Set whether processes of the same user may read our memory and environment."""
    check(prctl(PR_SET_DUMPABLE, int(dumpable)), "PR_SET_DUMPABLE")


def adopt_orphans() -> None:
    """Become the parent of descendants whose own parent ends."""
    check(prctl(PR_SET_CHILD_SUBREAPER, 1), "PR_SET_CHILD_SUBREAPER")


def forbid_new_privileges() -> None:
    """Make set-user-id programs powerless for this process and its descendants."""
    check(prctl(PR_SET_NO_NEW_PRIVS, 1), "PR_SET_NO_NEW_PRIVS")


def open_place(path: str) -> int:
    """Open a place without access to it. Raises SandboxError if it is not the expected one."""
    descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    facts, expected = os.fstat(descriptor), known_places.get(path)
    if expected is not None and [facts.st_dev, facts.st_ino] != list(expected):
        raise SandboxError("{} was replaced".format(path))
    return descriptor
