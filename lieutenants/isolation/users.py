"""System user ids for agents: numbers from the range of dynamic users, without passwd entries.

The file system stores them: a lieutenant's user id is the owner of its workspace.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from django.conf import settings

from lieutenants.exceptions import IsolationUnavailable
from lieutenants.isolation.homes import Home, give_tree
from lieutenants.models import Lieutenant
from reef_site.common import locks

# The range that system managers use for users that exist only while a service runs.
FIRST, LAST = 61184, 65519


def is_system_user(uid: int) -> bool:
    """Return whether this number may belong to an agent."""
    return FIRST <= uid <= LAST


def uid_of(home: Home) -> int:
    """Return the lieutenant's user id: the owner of its workspace, else a free one.

    A new id is reserved by making it the owner of the workspace. Raises IsolationUnavailable,
    OSError.
    """
    home.root.mkdir(mode=0o700, parents=True, exist_ok=True)
    home.workspace.mkdir(mode=0o700, exist_ok=True)
    known = home.workspace.stat(follow_symlinks=False).st_uid
    if is_system_user(known):
        return known
    with _exclusive():
        _reclaim()
        uid = _free_uid(home)
        give_tree(home.workspace, uid)
    return uid


def _free_uid(home: Home) -> int:
    taken = {*_owners_of_workspaces(), *_owners_of_processes()}
    size = LAST - FIRST + 1
    # Two data folders of one host should not begin at the same number.
    start = int.from_bytes(hashlib.sha256(bytes(home.root)).digest()[:4], "big")
    for step in range(size):
        uid = FIRST + (start + step) % size
        if uid not in taken:
            return uid
    raise IsolationUnavailable(f"all {size} user ids for agents are taken")


def _reclaim() -> None:
    """Give folders of destroyed lieutenants to reef's own user, which frees their ids."""
    living = set(Lieutenant.objects.active().values_list("pk", flat=True))
    for root in settings.LIEUTENANTS_DIR.iterdir():
        gone = Home(root)
        # A hidden folder is in use: see `Dialect.export_html`.
        if root.name not in living and not root.name.startswith(".") and gone.workspace.is_dir():
            for folder in gone.agents:
                if folder.is_dir() and is_system_user(folder.stat(follow_symlinks=False).st_uid):
                    give_tree(folder, os.geteuid())


def _owners_of_workspaces() -> Iterator[int]:
    for workspace in settings.LIEUTENANTS_DIR.glob("*/workspace"):
        with contextlib.suppress(OSError):
            yield workspace.stat(follow_symlinks=False).st_uid


def _owners_of_processes() -> Iterator[int]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                yield entry.stat().st_uid


@contextmanager
def _exclusive() -> Iterator[None]:
    """Let only one start at a time pick an id."""
    with locks.held(settings.LIEUTENANTS_DIR / ".users.lock"):
        yield
