"""Finds the repository of a folder, and what is checked out there."""

from __future__ import annotations

import os
import stat

from . import names
from .git import EMPTY_TREES, Failed, Problem

TYPE_CHECKING = False  # importing typing would cost a megabyte
if TYPE_CHECKING:
    from typing import Any

    from .git import Git

_MAX_SEEN, _MAX_INSIDE = 2000, 50
# Folders that hold copies of other people's repositories, if any.
_SKIPPED = frozenset((b"node_modules", b".cache", b".venv", b"vendor"))


class Repository:
    """A repository with files, and its present commit (empty: none yet)."""

    def __init__(self, git: Git, git_folder: str, common: str, top: str) -> None:
        self.git = git
        self.git_folder, self.common, self.top = git_folder, common, top
        self.head = self._ask("rev-parse", "--verify", "--quiet", "HEAD^{commit}")
        self.branch = self._ask("symbolic-ref", "--quiet", "--short", "HEAD")
        shape = self._ask("rev-parse", "--show-object-format")
        git.use(git_folder=git_folder, common=common, top=top, head=self.head)
        self.empty_tree = EMPTY_TREES[64 if shape == "sha256" else 40]

    def _ask(self, *words: str) -> str:
        try:
            return self.git.ask(*words)
        except Failed:
            return ""

    def facts(self) -> dict[str, Any]:
        return {"commit": self.head, "branch": self.branch}


def check_folder(folder: str) -> None:
    """Raise Problem unless this is a folder that can be read."""
    try:
        if not stat.S_ISDIR(os.stat(folder).st_mode):
            raise Problem("no_folder")
        os.listdir(folder)
    except FileNotFoundError:
        raise Problem("gone") from None
    except OSError as trouble:
        raise Problem("unreadable", str(trouble.strerror)) from None


def find_repository(git: Git, *, upward: bool) -> Repository:
    """Return the repository of the folder, or of one above with `upward`. Raises Problem."""
    if not upward:
        git.env["GIT_CEILING_DIRECTORIES"] = os.path.dirname(git.folder)
    try:
        found = git.ask("rev-parse", "--is-bare-repository", "--absolute-git-dir").split("\n", 1)
    except Failed as trouble:
        has_one = os.path.lexists(os.path.join(git.folder, ".git"))
        if "not a git repository" in str(trouble) and not has_one:
            raise Problem("no_repository") from None
        raise Problem("broken", str(trouble)) from None
    is_bare, git_folder = found[0], found[-1]
    try:
        if is_bare == "true" or git.ask("rev-parse", "--is-inside-work-tree") != "true":
            raise Problem("bare")
        top = git.ask("rev-parse", "--show-toplevel")
        common = git.ask("rev-parse", "--git-common-dir")
        return Repository(git, git_folder, os.path.join(git.folder, common), top)
    except Failed as trouble:
        raise Problem("broken", str(trouble)) from None


def inner_repositories(folder: str) -> list[str]:
    """Return the folders below, two levels deep at most, that have a repository of their own."""
    root = os.fsencode(folder)
    found: list[bytes] = []
    deeper: list[bytes] = []
    for name in _folders(root)[:_MAX_SEEN]:
        (found if _has_repository(root, name) else deeper).append(name)
    left = _MAX_SEEN
    for outer in deeper:
        inside = _folders(os.path.join(root, outer))[: max(0, left)]
        left -= len(inside)
        paths = [os.path.join(outer, name) for name in inside]
        found += [path for path in paths if _has_repository(root, path)]
    return sorted(map(names.quote, found))[:_MAX_INSIDE]


def _has_repository(root: bytes, path: bytes) -> bool:
    return os.path.lexists(os.path.join(root, path, b".git"))


def _folders(folder: bytes) -> list[bytes]:
    try:
        with os.scandir(folder) as entries:
            return sorted(
                each.name
                for each in entries
                if each.name not in _SKIPPED and each.is_dir(follow_symlinks=False)
            )
    except OSError:
        return []
