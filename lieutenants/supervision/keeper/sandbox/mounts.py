"""A private view of the file system, in a mount namespace of its own."""

from __future__ import annotations

import contextlib
import ctypes
import os
import stat
import struct

from .kernel import SandboxError, check, libc, open_place, set_dumpable, syscall

TYPE_CHECKING = False  # importing typing would cost a megabyte
if TYPE_CHECKING:
    from typing import Any

CLONE_NEWNS, CLONE_NEWUSER = 0x00020000, 0x10000000
MS_NOSUID, MS_NODEV = 2, 4
MS_BIND, MS_REC, MS_PRIVATE = 1 << 12, 1 << 14, 1 << 18
MOUNT_SETATTR, MOUNT_ATTR_RDONLY, AT_FDCWD, AT_RECURSIVE = 442, 1, -100, 0x8000


def enter_view(view: dict[str, Any]) -> None:
    """Enter a private mount namespace. If it is not required, a refusal is accepted."""
    try:
        unshare_mounts()
    except (SandboxError, OSError):
        if view.get("required"):
            raise
        return
    try:
        check(mount(None, "/", None, MS_REC | MS_PRIVATE), "private mounts")
        for place in [_open_place(cover) for cover in view.get("covers", [])]:
            _cover(*place)
        for path in view.get("hide", []):
            _hide(path)
        if view.get("writable"):
            kept = [cover.get("keep", {}) for cover in view.get("covers", [])]
            inside = [path for keep in kept for path in keep if not keep[path]]
            _make_read_only(view["writable"], inside)
    except (SandboxError, OSError) as trouble:
        raise SandboxError("private view: {}".format(trouble)) from None


def unshare_mounts() -> None:
    uid, gid = os.geteuid(), os.getegid()
    if uid == 0:
        check(libc.unshare(CLONE_NEWNS), "unshare")
        return
    set_dumpable(True)  # otherwise our files in /proc belong to root
    check(libc.unshare(CLONE_NEWNS | CLONE_NEWUSER), "unshare")
    for name, text in (
        ("setgroups", "deny"),
        ("uid_map", "{0} {0} 1".format(uid)),
        ("gid_map", "{0} {0} 1".format(gid)),
    ):
        with open("/proc/self/" + name, "w", encoding="ascii") as file:
            file.write(text)


def mount(source: str | None, target: str, kind: str | None, flags: int, data: str = "") -> int:
    texts = [None if text is None else os.fsencode(text) for text in (source, target, kind)]
    return int(libc.mount(*texts, ctypes.c_ulong(flags), os.fsencode(data) or None))


def _open_place(cover: dict[str, Any]) -> tuple[str, str, dict[str, str]]:
    """Return (path, source, kept) with names that lead to the same places after all covers."""
    source = cover.get("source")
    kept = {path: _hold(path) for path in cover.get("keep", {})}
    return cover["path"], _hold(source) if source else "", kept


def _hold(path: str) -> str:
    return "/proc/self/fd/{}".format(open_place(path))


def _cover(path: str, source: str, kept: dict[str, str]) -> None:
    """Mount `source`, or an empty folder, over `path`; kept paths below it stay visible."""
    if source:
        done = mount(source, path, None, MS_BIND | MS_REC)
    else:
        done = mount("reef", path, "tmpfs", MS_NOSUID | MS_NODEV, "mode=0711,size=1m")
    check(done, "cover " + path)
    for name, held in kept.items():
        _make_place(name, os.stat(held).st_mode)
        check(mount(held, name, None, MS_BIND | MS_REC), "keep " + name)


def _make_place(path: str, mode: int) -> None:
    """Create the target of a bind mount. No link is followed on the way."""
    *folders, name = path.strip("/").split("/")
    old = os.umask(0o022)
    place = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    for part in [*folders, name] if stat.S_ISDIR(mode) else folders:
        with contextlib.suppress(FileExistsError):
            os.mkdir(part, 0o755, dir_fd=place)
        flags = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        above, place = place, os.open(part, flags, dir_fd=place)
        os.close(above)
    if not stat.S_ISDIR(mode):
        flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        os.close(os.open(name, flags, 0o644, dir_fd=place))
    os.close(place)
    os.umask(old)


def _make_read_only(writable: list[str], inside: list[str]) -> None:
    """Make everything read-only, modes too, except below `writable` without `inside`."""
    kept = [path for path in sorted(set(writable)) if os.path.exists(path)]
    for path in kept:
        check(mount(path, path, None, MS_BIND | MS_REC), "keep " + path)
    _set_attributes("/", add=MOUNT_ATTR_RDONLY)
    for path in kept:
        _set_attributes(path, remove=MOUNT_ATTR_RDONLY)
    for path in inside:
        _set_attributes(path, add=MOUNT_ATTR_RDONLY)


def _set_attributes(path: str, add: int = 0, remove: int = 0) -> None:
    attributes = struct.pack("=QQQQ", add, remove, 0, 0)
    name = ctypes.c_char_p(os.fsencode(path))
    where = (ctypes.c_int(AT_FDCWD), name, ctypes.c_uint(AT_RECURSIVE))
    size = ctypes.c_size_t(len(attributes))
    check(syscall(MOUNT_SETATTR, *where, attributes, size), "attributes of " + path)


def _hide(path: str) -> None:
    try:
        is_folder = stat.S_ISDIR(os.stat(path).st_mode)
    except OSError:
        return  # missing, or unreachable anyway
    if is_folder:
        flags = MS_NOSUID | MS_NODEV
        check(mount("reef", path, "tmpfs", flags, "mode=0555,size=4k"), "hide " + path)
    else:
        check(mount("/dev/null", path, None, MS_BIND), "hide " + path)
