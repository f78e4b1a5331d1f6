"""Choose the isolation of one agent and build the rules for the keeper's sandbox."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from django.conf import settings

from lieutenants.agents.base import Program
from lieutenants.exceptions import IsolationUnavailable
from lieutenants.isolation import modes, users
from lieutenants.isolation.homes import Home
from lieutenants.isolation.modes import Isolation

# System files that agents may read and run. Missing ones are skipped.
SYSTEM = (
    *("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/etc", "/opt", "/nix"),
    *("/snap", "/proc", "/sys", "/run/systemd/resolve", "/run/resolvconf", "/run/NetworkManager"),
    *("/run/nscd", "/var/lib/dpkg", "/var/lib/apt", "/var/cache/fontconfig"),
)
# Readable by root without any capability, but not by agents that run as root.
SECRET = (
    *("/etc/shadow", "/etc/shadow-", "/etc/gshadow", "/etc/gshadow-", "/etc/sudoers"),
    *("/etc/sudoers.d", "/etc/ssh", "/etc/ssl/private", "/etc/security/opasswd"),
)
DEVICES = (
    *("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty"),
    *("/dev/ptmx", "/dev/pts"),
)
# Sockets through which a process can make another one act for it.
HELPERS = (
    *("/var/lib/incus/unix.socket", "/var/lib/lxd/unix.socket", "/var/snap/lxd"),
    "/var/lib/libvirt",
)
# Most such sockets are here; agents see only the parts listed in SYSTEM.
RUNTIME = Path("/run")
TEMPORARY = ("/tmp", "/var/tmp", "/dev/shm")  # noqa: S108 - the folders that are replaced


@dataclass(frozen=True)
class Plan:
    """Isolation of one start: `rules` for the keeper, `argv` to prepend to the agent's own."""

    mode: Isolation
    rules: Mapping[str, Any]
    argv: Sequence[str] = ()
    uid: int | None = None
    path: str = field(default="")  # the agent's PATH


@dataclass(frozen=True)
class Extra:
    """A folder or socket that the operator lists for all agents (REEF_AGENT_FOLDERS)."""

    path: Path
    writable: bool


def extras() -> list[Extra]:
    """Parse REEF_AGENT_FOLDERS: paths, read-only with the suffix `:ro`.

    Raises IsolationUnavailable for a folder that would show agents the data folder.
    """
    found = []
    for text in settings.AGENT_FOLDERS:
        name = text.removesuffix(":ro")
        path = Path(os.path.realpath(name))
        for ours in (settings.DATA_DIR, settings.RUN_DIR):
            if ours.is_relative_to(path) or path.is_relative_to(ours):
                raise IsolationUnavailable(f"REEF_AGENT_FOLDERS: {name} holds files of reef's own")
        found.append(Extra(path, writable=name == text))
    return found


def make_plan(home: Home, folder: Path, program: Program) -> Plan:
    """Plan a start of the program in this folder. Raises IsolationUnavailable, OSError."""
    mode = modes.configured()
    needs = Needs.of(home, folder, program)
    if mode is Isolation.USER:
        if plan := _as_user(needs):
            return plan
        return _as_root(needs)
    if mode is Isolation.LANDLOCK:
        return _with_landlock(needs)
    if mode is Isolation.BUBBLEWRAP:
        return _with_bubblewrap(needs)
    return Plan(mode, {"mode": mode.value}, path=os.environ.get("PATH", os.defpath))


@dataclass(frozen=True)
class Needs:
    """Paths that one agent must reach."""

    home: Home
    folder: Path
    programs: list[Path]
    extras: list[Extra]

    @classmethod
    def of(cls, home: Home, folder: Path, program: Program) -> Needs:
        """Collect the paths of an agent that works in `folder`."""
        return cls(home, Path(os.path.realpath(folder)), _programs(program), extras())

    @property
    def writable(self) -> list[Path]:
        """Return the paths that the agent may change."""
        more = [extra.path for extra in self.extras if extra.writable]
        return [*self.home.agents, self.folder, *more]

    @property
    def readable(self) -> list[Path]:
        """Return the paths that it may only read and run, in addition to system files."""
        more = [extra.path for extra in self.extras if not extra.writable]
        return [self.home.prompt, *self.programs, *more]

    @property
    def all(self) -> list[Path]:
        """Return all paths that must stay visible."""
        made_later = {*self.home.agents, self.home.prompt}
        paths = (*self.readable, *self.writable)
        return [path for path in paths if path in made_later or path.exists()]


# -- as a system user -------------------------------------------------------------------------


def _as_user(needs: Needs) -> Plan | None:
    """Return a plan with a system user; None if such a user could not work."""
    owner = needs.folder.stat().st_uid if needs.folder != needs.home.workspace else 0
    shares = users.is_system_user(owner)
    if shares and not (modes.host().landlock and modes.host().mounts):
        return None
    uid = owner if shares else users.uid_of(needs.home)
    groups = _groups(needs)
    if needs.folder != needs.home.workspace and not _can_write(needs.folder, uid, groups):
        return None
    rules: dict[str, Any] = {"mode": "user", "uid": uid, "gid": uid, "groups": groups}
    rules["own_user"] = not shares
    rules["same"] = _identity(needs.folder)
    if shares:  # two agents with one user: Landlock protects the other's files
        rules["landlock"] = _landlock(needs, as_root=False)
    elif modes.host().landlock:
        # All files of its user, but no process of another agent, even of the same user.
        rules["landlock"] = {"write": ["/"]}
    if modes.host().mounts:
        rules["view"] = _view(needs, uid, groups, required=True)
    elif not _is_reachable(needs, uid, groups):
        return None
    return Plan(Isolation.USER, rules, uid=uid, path=_path(needs, uid, groups))


def _identity(folder: Path) -> dict[str, list[int]]:
    """Return device and inode of the folder, so that it cannot be swapped before the start."""
    facts = folder.stat()
    return {str(folder): [facts.st_dev, facts.st_ino]}


def _groups(needs: Needs) -> list[int]:
    """Return the groups with access to listed folders and sockets and the working folder."""
    listed = [*(extra.path for extra in needs.extras if extra.writable), needs.folder]
    found = set()
    for path in listed:
        if path.exists():
            facts = path.stat()
            if facts.st_gid and facts.st_mode & stat.S_IWGRP:
                found.add(facts.st_gid)
    return sorted(found)


def _mode_allows(path: Path, uid: int, groups: Iterable[int], bits: int) -> bool:
    """Return whether the mode of `path` allows this user `bits` (4 read, 2 write, 1 enter)."""
    facts = path.stat()
    if facts.st_uid == uid:
        mine = facts.st_mode >> 6
    elif facts.st_gid in (uid, *groups):
        mine = facts.st_mode >> 3
    else:
        mine = facts.st_mode
    return mine & bits == bits


def _can_write(folder: Path, uid: int, groups: Iterable[int]) -> bool:
    return _mode_allows(folder, uid, groups, 7)


def _closed_parent(path: Path, uid: int, groups: Iterable[int]) -> Path | None:
    """Return the topmost folder above `path` that this user cannot enter."""
    for parent in reversed(path.parents):
        if not _mode_allows(parent, uid, groups, 1):
            return parent
    return None


def _is_reachable(needs: Needs, uid: int, groups: Sequence[int]) -> bool:
    """Return whether the user can reach all needed paths once reef has opened its own folders."""
    ours = {settings.DATA_DIR, settings.LIEUTENANTS_DIR, needs.home.root}
    closed = {_closed_parent(path, uid, groups) for path in needs.all}
    return closed <= {None, *ours}


def _as_root(needs: Needs) -> Plan:
    """Plan an agent that runs as root, since no system user can: only in a workspace of its own.

    It has no capabilities, but owns everything that root owns: in any other folder it could leave
    programs that run as root. An operator has to open such a folder to system users first.
    """
    if needs.folder != needs.home.workspace or settings.ISOLATION == "user":
        raise IsolationUnavailable(
            f"a system user cannot work in {needs.folder}. Give the folder a group other than "
            "root's that may write to it (chgrp, chmod g+rwx); the agent then gets that group"
        )
    if modes.host().landlock:
        return _with_landlock(needs)
    return Plan(Isolation.NONE, {"mode": "none", "drop": True}, path=_path(needs, 0, ()))


# -- views ------------------------------------------------------------------------------------


def _view(needs: Needs, uid: int, groups: Sequence[int], *, required: bool) -> dict[str, Any]:
    """Return rules for a mount namespace that hides reef's folders and temporary files."""
    covers: dict[Path, str] = {Path(name): str(needs.home.tmp) for name in TEMPORARY}
    hidden = [settings.DATA_DIR, settings.RUN_DIR, RUNTIME]
    if required:
        closed = (_closed_parent(path, uid, groups) for path in needs.all)
        hidden += [path for path in closed if path is not None]
    for path in sorted(set(hidden)):
        if not any(path.is_relative_to(cover) for cover in covers):
            covers[path] = ""
    rules = [
        {"path": str(path), "source": source, "keep": _kept(needs, path)}
        for path, source in sorted(covers.items())
        if path.is_dir() and not path.is_symlink()
    ]
    listed = {str(extra.path) for extra in needs.extras}
    hide = [path for path in HELPERS if os.path.realpath(path) not in listed]
    writable = [*TEMPORARY, *map(str, needs.writable)]
    return {"required": required, "covers": rules, "hide": hide, "writable": writable}


def _kept(needs: Needs, cover: Path) -> dict[str, bool]:
    """Map needed paths below a cover to whether they are writable, outermost paths only."""
    inside = {path for path in needs.all if path != cover and path.is_relative_to(cover)}
    kept: list[Path] = []
    for path in sorted(inside):
        if not any(path.is_relative_to(other) for other in kept):
            kept.append(path)
    keep = {str(path): path in needs.writable for path in kept}
    if cover == RUNTIME:
        keep |= {
            path: False for path in SYSTEM if path.startswith("/run/") and os.path.exists(path)
        }
    return keep


# -- Landlock ---------------------------------------------------------------------------------


def _with_landlock(needs: Needs) -> Plan:
    is_root = os.geteuid() == 0
    rules: dict[str, Any] = {
        "mode": "landlock",
        "drop": is_root,
        "landlock": _landlock(needs, as_root=is_root),
        "same": _identity(needs.folder),
    }
    if modes.host().mounts:
        rules["view"] = _view(needs, os.geteuid(), (), required=False)
    return Plan(Isolation.LANDLOCK, rules, path=_path(needs, os.geteuid(), ()))


def _landlock(needs: Needs, *, as_root: bool) -> dict[str, list[str]]:
    hidden = [str(settings.DATA_DIR), str(settings.RUN_DIR), *(SECRET if as_root else ())]
    system = [os.path.realpath(path) for path in SYSTEM if os.path.exists(path)]
    read: list[str] = []
    listable = ["/dev"]
    for path in (*system, *map(str, _search_path())):
        if not any(path == secret or path.startswith(f"{secret}/") for secret in hidden):
            _split(path, hidden, read, listable)
    write = [str(path) for path in needs.writable if not _is_socket(path)]
    # Without a private view /tmp is shared by all; then the agent has TMPDIR only.
    write += TEMPORARY if modes.host().mounts else TEMPORARY[2:]
    return {
        "read": [*read, *map(str, needs.readable)],
        "write": write,
        "device": list(DEVICES),
        "list": listable,
    }


def _split(path: str, hidden: Sequence[str], read: list[str], listable: list[str]) -> None:
    """Add `path` to `read`, or the parts of it that are not hidden."""
    inside = [secret for secret in hidden if secret.startswith(f"{path}/")]
    if not inside:
        read.append(path)
        return
    listable.append(path)
    with os.scandir(path) as entries:
        for entry in entries:
            if entry.path not in hidden:
                _split(entry.path, inside, read, listable)


def _is_socket(path: Path) -> bool:
    return path.exists() and stat.S_ISSOCK(path.stat().st_mode)


# -- bubblewrap -------------------------------------------------------------------------------


def _with_bubblewrap(needs: Needs) -> Plan:
    argv = [modes.host().bubblewrap, "--unshare-pid", "--unshare-ipc", "--dev", "/dev"]
    for path in (*SYSTEM, *map(str, _search_path())):
        if path != "/proc" and not _holds_secrets(Path(path)):
            argv += ["--ro-bind-try", path, path]
    argv += ["--proc", "/proc"]
    for name in TEMPORARY:
        argv += ["--bind", str(needs.home.tmp), name]
    for readable in needs.readable:
        argv += ["--ro-bind-try", str(readable), str(readable)]
    for writable in needs.writable:
        argv += ["--bind-try", str(writable), str(writable)]
    argv += ["--chdir", str(needs.folder), "--"]
    rules = {"mode": "bubblewrap", "drop": False}
    return Plan(Isolation.BUBBLEWRAP, rules, argv=argv, path=_path(needs, os.geteuid(), ()))


def _holds_secrets(path: Path) -> bool:
    return settings.DATA_DIR.is_relative_to(path) or settings.RUN_DIR.is_relative_to(path)


# -- programs ---------------------------------------------------------------------------------


def _programs(program: Program) -> list[Path]:
    """Return the files and folders outside of the system's that the program needs."""
    places = [Path(os.path.realpath(path.parent)) / path.name for path in program.files]
    return [path for path in places if not _is_system(path)]


def _is_system(path: Path) -> bool:
    system = ("/usr", "/bin", "/lib", "/opt", "/nix")
    return not path.is_relative_to(settings.DATA_DIR) and any(map(path.is_relative_to, system))


def _search_path() -> list[Path]:
    """Return folders of PATH outside of the system's, with the usual needs of their programs."""
    found: list[Path] = []
    for name in os.environ.get("PATH", os.defpath).split(os.pathsep):
        folder = Path(os.path.realpath(name))
        if not name.startswith("/") or _is_system(folder) or not folder.is_dir():
            continue
        if folder.name == "shims":  # version managers keep the real programs beside their shims
            found.append(folder.parent)
            continue
        found.append(folder)
        if folder.name == "bin":
            found += [folder.parent / name for name in ("lib", "lib64", "libexec", "include")]
    return [path for path in found if path.is_dir()]


def _path(needs: Needs, uid: int, groups: Sequence[int]) -> str:
    """Return PATH without folders that this user cannot enter."""
    kept = []
    for name in os.environ.get("PATH", os.defpath).split(os.pathsep):
        folder = Path(name)
        if folder.is_dir() and _mode_allows(folder, uid, groups, 1):
            closed = _closed_parent(folder, uid, groups)
            if closed is None or any(folder.is_relative_to(path) for path in needs.all):
                kept.append(name)
    return os.pathsep.join(kept) or os.defpath
