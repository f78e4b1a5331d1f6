"""Confine a process before it becomes an agent: namespaces, a system user, Landlock.

The keeper calls `enter` in the child, between fork and exec. `probe` finds out what this kernel and
this user allow.

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

import contextlib
import ctypes
import errno
import os
import stat
import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

PR_SET_DUMPABLE, PR_CAPBSET_DROP, PR_SET_CHILD_SUBREAPER = 4, 24, 36
PR_SET_NO_NEW_PRIVS, PR_CAP_AMBIENT = 38, 47
PR_CAP_AMBIENT_CLEAR_ALL = 4
CLONE_NEWNS, CLONE_NEWUSER = 0x00020000, 0x10000000
MS_NOSUID, MS_NODEV = 2, 4
MS_BIND, MS_REC, MS_PRIVATE = 1 << 12, 1 << 14, 1 << 18
CAPABILITY_VERSION_3 = 0x20080522
# These three have the same numbers on all architectures that reef supports.
CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446
RULE_PATH_BENEATH = 1
MOUNT_SETATTR, MOUNT_ATTR_RDONLY, AT_FDCWD, AT_RECURSIVE = 442, 1, -100, 0x8000

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

# Paths with known identity (device and inode), see `enter`.
_same: dict[str, list[int]] = {}

_libc = ctypes.CDLL(None, use_errno=True)


class SandboxError(Exception):
    """The process cannot be confined as requested; the text names the failed step and the cause."""


def _check(result: int, step: str) -> int:
    if result < 0:
        raise SandboxError("{}: {}".format(step, os.strerror(ctypes.get_errno())))
    return result


def _prctl(option: int, *values: int) -> int:
    arguments = [ctypes.c_ulong(value) for value in (*values, 0, 0, 0, 0)[:4]]
    return int(_libc.prctl(ctypes.c_int(option), *arguments))


def _syscall(number: int, *arguments: Any) -> int:
    return int(_libc.syscall(ctypes.c_long(number), *arguments))


def set_dumpable(dumpable: bool) -> None:
    """Set whether processes of the same user may read our memory and environment."""
    _check(_prctl(PR_SET_DUMPABLE, int(dumpable)), "PR_SET_DUMPABLE")


def adopt_orphans() -> None:
    """Become the parent of descendants whose own parent ends."""
    _check(_prctl(PR_SET_CHILD_SUBREAPER, 1), "PR_SET_CHILD_SUBREAPER")


def forbid_new_privileges() -> None:
    """Make set-user-id programs powerless for this process and its descendants."""
    _check(_prctl(PR_SET_NO_NEW_PRIVS, 1), "PR_SET_NO_NEW_PRIVS")


def enter(rules: dict[str, Any]) -> None:
    """Confine this process irrevocably. Raises SandboxError, OSError."""
    view, landlock = rules.get("view"), rules.get("landlock")
    _same.update(rules.get("same", {}))
    if view:
        _enter_view(view)
    if rules.get("uid"):
        _become_user(rules["uid"], rules["gid"], rules.get("groups", []))
    elif rules.get("drop"):
        _drop_capabilities()
    forbid_new_privileges()
    if landlock:
        restrict_files(landlock)


# --- user ---------------------------------------------------------------------------------------


def _become_user(uid: int, gid: int, groups: list[int]) -> None:
    os.setgroups(groups)
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)


def _drop_capabilities() -> None:
    _prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL)  # an old kernel has none to clear
    for capability in range(64):
        if _prctl(PR_CAPBSET_DROP, capability) < 0:
            break  # the first number that this kernel does not know
    header = ctypes.create_string_buffer(struct.pack("=Ii", CAPABILITY_VERSION_3, 0))
    _check(_libc.capset(header, ctypes.create_string_buffer(24)), "capset")


# --- private view of the file system ------------------------------------------------------------


def _enter_view(view: dict[str, Any]) -> None:
    """Enter a private mount namespace. If it is not required, a refusal is accepted."""
    try:
        _unshare_mounts()
    except (SandboxError, OSError):
        if view.get("required"):
            raise
        return
    try:
        _check(_mount(None, "/", None, MS_REC | MS_PRIVATE), "private mounts")
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


def _unshare_mounts() -> None:
    uid, gid = os.geteuid(), os.getegid()
    if uid == 0:
        _check(_libc.unshare(CLONE_NEWNS), "unshare")
        return
    set_dumpable(True)  # otherwise our files in /proc belong to root
    _check(_libc.unshare(CLONE_NEWNS | CLONE_NEWUSER), "unshare")
    for name, text in (
        ("setgroups", "deny"),
        ("uid_map", "{0} {0} 1".format(uid)),
        ("gid_map", "{0} {0} 1".format(gid)),
    ):
        with open("/proc/self/" + name, "w", encoding="ascii") as file:
            file.write(text)


def _mount(source: str | None, target: str, kind: str | None, flags: int, data: str = "") -> int:
    texts = [None if text is None else os.fsencode(text) for text in (source, target, kind)]
    return int(_libc.mount(*texts, ctypes.c_ulong(flags), os.fsencode(data) or None))


def _open_place(cover: dict[str, Any]) -> tuple[str, str, dict[str, str]]:
    """Return (path, source, kept) with names that lead to the same places after all covers."""
    source = cover.get("source")
    kept = {path: _hold(path) for path in cover.get("keep", {})}
    return cover["path"], _hold(source) if source else "", kept


def _hold(path: str) -> str:
    return "/proc/self/fd/{}".format(_open(path))


def _open(path: str) -> int:
    """Open a place without access to it. Raises SandboxError if it is not the expected one."""
    descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    facts, expected = os.fstat(descriptor), _same.get(path)
    if expected is not None and [facts.st_dev, facts.st_ino] != list(expected):
        raise SandboxError("{} was replaced".format(path))
    return descriptor


def _cover(path: str, source: str, kept: dict[str, str]) -> None:
    """Mount `source`, or an empty folder, over `path`; kept paths below it stay visible."""
    if source:
        done = _mount(source, path, None, MS_BIND | MS_REC)
    else:
        done = _mount("reef", path, "tmpfs", MS_NOSUID | MS_NODEV, "mode=0711,size=1m")
    _check(done, "cover " + path)
    for name, held in kept.items():
        _make_place(name, os.stat(held).st_mode)
        _check(_mount(held, name, None, MS_BIND | MS_REC), "keep " + name)


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
        _check(_mount(path, path, None, MS_BIND | MS_REC), "keep " + path)
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
    _check(_syscall(MOUNT_SETATTR, *where, attributes, size), "attributes of " + path)


def _hide(path: str) -> None:
    try:
        is_folder = stat.S_ISDIR(os.stat(path).st_mode)
    except OSError:
        return  # missing, or unreachable anyway
    if is_folder:
        flags = MS_NOSUID | MS_NODEV
        _check(_mount("reef", path, "tmpfs", flags, "mode=0555,size=4k"), "hide " + path)
    else:
        _check(_mount("/dev/null", path, None, MS_BIND), "hide " + path)


# --- Landlock -----------------------------------------------------------------------------------


def landlock_version() -> int:
    """Return the version of the kernel's interface; 0 without Landlock."""
    return max(0, _syscall(CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint32(1)))


def restrict_files(allowed: dict[str, list[str]]) -> None:
    """Refuse all access to files except the listed ones. Missing paths are skipped."""
    version = landlock_version()
    if not version:
        raise SandboxError("this kernel has no Landlock")
    known = (1 << FS_BITS[min(version, 5)]) - 1
    scopes = SCOPE_ABSTRACT_SOCKET | SCOPE_SIGNAL
    attributes = struct.pack("=QQQ", known, 0, scopes if version >= SCOPE_VERSION else 0)
    size = 24 if version >= SCOPE_VERSION else 8
    ruleset = _syscall(CREATE_RULESET, attributes, ctypes.c_size_t(size), ctypes.c_uint32(0))
    _check(ruleset, "Landlock ruleset")
    for kind, paths in allowed.items():
        for path in paths:
            _allow(ruleset, path, RIGHTS[kind] & known)
    _check(_syscall(RESTRICT_SELF, ctypes.c_int(ruleset), ctypes.c_uint32(0)), "Landlock")
    os.close(ruleset)


def _allow(ruleset: int, path: str, rights: int) -> None:
    try:
        descriptor = _open(path)
    except OSError as trouble:
        if trouble.errno in (errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.ELOOP):
            return
        raise
    if not stat.S_ISDIR(os.fstat(descriptor).st_mode):
        rights &= FILE_RIGHTS
    rule = struct.pack("=Qi", rights, descriptor)
    done = _syscall(
        ADD_RULE, ctypes.c_int(ruleset), ctypes.c_int(RULE_PATH_BENEATH), rule, ctypes.c_uint32(0)
    )
    os.close(descriptor)
    _check(done, "Landlock rule for " + path)


# --- what is possible here ----------------------------------------------------------------------


def _in_child(work: str) -> bool:
    """Return whether this step succeeds, tried in a child process that exits at once."""
    pid = os.fork()
    if pid == 0:
        try:
            {"mounts": _try_mounts, "user": _try_user}[work]()
        except (OSError, SandboxError):
            os._exit(1)
        os._exit(0)
    return os.waitpid(pid, 0)[1] == 0


def _try_mounts() -> None:
    _unshare_mounts()
    _check(_mount(None, "/", None, MS_REC | MS_PRIVATE), "private mounts")
    _check(_mount("reef", "/dev", "tmpfs", MS_NOSUID, "size=4k"), "mount")


def _try_user() -> None:
    _become_user(65519, 65519, [])


def _runs_confined(program: str) -> bool:
    """Return whether bubblewrap works for a process that gets no new privileges."""
    pid = os.fork()
    if pid == 0:
        null = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1, 2):
            os.dup2(null, descriptor)
        forbid_new_privileges()
        os.execv(program, [program, "--unshare-pid", "--ro-bind", "/", "/", "/bin/true"])  # noqa: S606
    return os.waitpid(pid, 0)[1] == 0


def probe(bubblewrap: str) -> dict[str, Any]:
    """Return what can be used here: landlock (version); mounts, user and bubblewrap (booleans)."""
    return {
        "bubblewrap": bool(bubblewrap) and _runs_confined(bubblewrap),
        "landlock": landlock_version(),
        "mounts": _in_child("mounts"),
        "user": os.geteuid() == 0 and _in_child("user"),
    }
