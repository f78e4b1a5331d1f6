"""Confine a process before it becomes an agent: namespaces, a system user, Landlock.

The keeper calls `enter` in the child, between fork and exec.

`enter` takes a dictionary; all keys but `mode` are optional:

    mode        "user", "landlock", "bubblewrap" (argv does the work) or "none"
    uid, gid, groups    ids to change to; needs root
    drop        True: give up all capabilities (for root without a user of its own)
    view        {"required": bool, "covers": [{"path", "source", "keep": {path: writable}}],
                "hide": [paths], "writable": [paths]}: a private mount namespace. Each covered
                folder shows `source` (or nothing) and the paths in `keep`, hidden paths are
                empty, and everything is read-only, modes too, except below `writable`
    same        {path: [device, inode]}: these paths must still be the same places
    landlock    {"read": [paths], "write": [paths], "device": [paths], "list": [paths]}
"""

from __future__ import annotations

import ctypes
import os
import struct

from .kernel import (
    PR_CAP_AMBIENT,
    PR_CAP_AMBIENT_CLEAR_ALL,
    PR_CAPBSET_DROP,
    check,
    forbid_new_privileges,
    known_places,
    libc,
    prctl,
)
from .landlock import restrict_files
from .mounts import enter_view

TYPE_CHECKING = False  # importing typing would cost a megabyte
if TYPE_CHECKING:
    from typing import Any

CAPABILITY_VERSION_3 = 0x20080522


def enter(rules: dict[str, Any]) -> None:
    """Confine this process irrevocably. Raises SandboxError, OSError."""
    view, landlock = rules.get("view"), rules.get("landlock")
    known_places.update(rules.get("same", {}))
    if view:
        enter_view(view)
    if rules.get("uid"):
        become_user(rules["uid"], rules["gid"], rules.get("groups", []))
    elif rules.get("drop"):
        _drop_capabilities()
    forbid_new_privileges()
    if landlock:
        restrict_files(landlock)


def become_user(uid: int, gid: int, groups: list[int]) -> None:
    os.setgroups(groups)
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)


def _drop_capabilities() -> None:
    prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL)  # an old kernel has none to clear
    for capability in range(64):
        if prctl(PR_CAPBSET_DROP, capability) < 0:
            break  # the first number that this kernel does not know
    header = ctypes.create_string_buffer(struct.pack("=Ii", CAPABILITY_VERSION_3, 0))
    check(libc.capset(header, ctypes.create_string_buffer(24)), "capset")
