"""Rules of Landlock: what a process may do with files."""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import struct

from .kernel import SandboxError, check, open_place, syscall

# These three have the same numbers on all architectures that reef supports.
CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446
RULE_PATH_BENEATH = 1
EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1, 2, 4, 8
REFER, TRUNCATE, IOCTL_DEV = 1 << 13, 1 << 14, 1 << 15
# Bits of file access that each version of the interface knows.
FS_BITS = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}
FILE_RIGHTS = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEV
RIGHTS = {
    "read": EXECUTE | READ_FILE | READ_DIR,
    "write": (1 << 16) - 1,
    "device": READ_FILE | WRITE_FILE | READ_DIR | TRUNCATE | IOCTL_DEV,
    "list": READ_DIR,
}
# From version 6 on: no signals and no abstract sockets across the border.
SCOPE_VERSION, SCOPE_ABSTRACT_SOCKET, SCOPE_SIGNAL = 6, 1, 2


def landlock_version() -> int:
    """Return the version of the kernel's interface; 0 without Landlock."""
    return max(0, syscall(CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint32(1)))


def restrict_files(allowed: dict[str, list[str]]) -> None:
    """Refuse all access to files except the listed ones. Missing paths are skipped."""
    version = landlock_version()
    if not version:
        raise SandboxError("this kernel has no Landlock")
    known = (1 << FS_BITS[min(version, 5)]) - 1
    scopes = SCOPE_ABSTRACT_SOCKET | SCOPE_SIGNAL
    attributes = struct.pack("=QQQ", known, 0, scopes if version >= SCOPE_VERSION else 0)
    size = 24 if version >= SCOPE_VERSION else 8
    ruleset = syscall(CREATE_RULESET, attributes, ctypes.c_size_t(size), ctypes.c_uint32(0))
    check(ruleset, "Landlock ruleset")
    for kind, paths in allowed.items():
        for path in paths:
            _allow(ruleset, path, RIGHTS[kind] & known)
    check(syscall(RESTRICT_SELF, ctypes.c_int(ruleset), ctypes.c_uint32(0)), "Landlock")
    os.close(ruleset)


def _allow(ruleset: int, path: str, rights: int) -> None:
    try:
        descriptor = open_place(path)
    except OSError as trouble:
        if trouble.errno in (errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.ELOOP):
            return
        raise
    if not stat.S_ISDIR(os.fstat(descriptor).st_mode):
        rights &= FILE_RIGHTS
    rule = struct.pack("=Qi", rights, descriptor)
    done = syscall(
        ADD_RULE, ctypes.c_int(ruleset), ctypes.c_int(RULE_PATH_BENEATH), rule, ctypes.c_uint32(0)
    )
    os.close(descriptor)
    check(done, "Landlock rule for " + path)
