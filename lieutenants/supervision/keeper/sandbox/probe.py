"""Find out which kinds of isolation this kernel and this user allow."""

from __future__ import annotations

import os

from .kernel import SandboxError, check, forbid_new_privileges
from .landlock import landlock_version
from .mounts import MS_NOSUID, MS_PRIVATE, MS_REC, mount, unshare_mounts
from .rules import become_user

TYPE_CHECKING = False  # importing typing would cost a megabyte
if TYPE_CHECKING:
    from typing import Any


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
    unshare_mounts()
    check(mount(None, "/", None, MS_REC | MS_PRIVATE), "private mounts")
    check(mount("reef", "/dev", "tmpfs", MS_NOSUID, "size=4k"), "mount")


def _try_user() -> None:
    become_user(65519, 65519, [])


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
