"""Finds the commit that a repository's files are compared with.

`base` of a request has the kind "head" (the present commit), "rev" (a name of a commit, `rev`),
"commit" (`commit`, what was checked out at the time `at`) or "time" (what was checked out then).
"""

from __future__ import annotations

import os
import re
import stat

from .git import Failed, Problem

TYPE_CHECKING = False  # importing typing would cost a megabyte
if TYPE_CHECKING:
    from typing import Any

    from .git import Git
    from .heads import Repository

_OBJECT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_MAX_LOG_BYTES = 1 << 20
_LOG_LINE = re.compile(rb"([0-9a-f]{40,64}) ([0-9a-f]{40,64}) .*> (\d{1,12}) [-+]\d{4}(?:\t(.*))?")


class Base:
    """The state that is compared with: `tree` for git, `commit` (empty: an empty tree), a note.

    The note is "cloned" or "created" if the repository came after the time, "no_log" if git knows
    no earlier commits, "lost" if the known commit is gone, "ancestor" if the common ancestor of
    the named and the present commit is used.
    """

    def __init__(self, tree: str, commit: str, note: str = "") -> None:
        self.tree, self.commit, self.note = tree, commit, note


def resolve(repository: Repository, request: dict[str, Any]) -> Base:
    """Return what is compared with. Raises Problem if a given name is unknown."""
    kind = request.get("kind")
    if kind == "rev":
        return _named(repository, str(request.get("rev")))
    if kind == "commit" and _exists(repository.git, str(request.get("commit"))):
        return Base(str(request["commit"]), str(request["commit"]))
    if kind in ("commit", "time"):
        base = _at(repository, float(request.get("at") or 0))
        base.note = "lost" if kind == "commit" else base.note
        return base
    return _head(repository)


def _head(repository: Repository, note: str = "") -> Base:
    return Base(repository.head or repository.empty_tree, repository.head, note)


def _exists(git: Git, commit: str) -> bool:
    if not _OBJECT.fullmatch(commit):
        return False
    try:
        return git.run("cat-file", "-t", commit, limit=100).strip() == b"commit"
    except Failed:
        return False


def _named(repository: Repository, rev: str) -> Base:
    try:
        # The real git folder has the names; `--end-of-options` keeps it from being an option.
        found = repository.git.ask(
            "rev-parse", "--verify", "--quiet", "--end-of-options", rev + "^{commit}"
        )
    except Failed:
        raise Problem("unknown_rev") from None
    if not _exists(repository.git, found):
        raise Problem("unknown_rev")
    if not repository.head or found == repository.head:
        return Base(found, found)
    try:
        words = ("merge-base", found, repository.head)
        common = repository.git.run(*words, limit=100).decode("ascii", "replace").strip()
    except Failed:
        return Base(found, found)
    return Base(common, common, "" if common == found else "ancestor")


def _at(repository: Repository, at: float) -> Base:
    """Return what was checked out at a time, as git's log of HEAD says."""
    entries = _log(os.path.join(repository.git_folder, "logs", "HEAD"))
    before = [entry for entry in entries if entry[2] <= at]
    if before:
        commit, note = before[-1][1], ""
    elif entries:
        old, new, _, message = entries[0]
        is_new = not old.strip("0")
        is_clone = message.startswith(b"clone")
        commit = new if is_new and is_clone else "" if is_new else old
        note = "cloned" if is_clone else "created" if is_new else ""
    elif repository.head:
        return _head(repository, "no_log")
    else:
        commit, note = "", "created"
    if commit and not _exists(repository.git, commit):
        return _head(repository, "no_log")
    return Base(commit or repository.empty_tree, commit, note)


def _log(path: str) -> list[tuple[str, str, int, bytes]]:
    """Return the newest entries of a log: old and new commit, time, message."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return []
    try:
        facts = os.fstat(file)
        if not stat.S_ISREG(facts.st_mode):
            return []
        data = os.pread(file, _MAX_LOG_BYTES, max(0, facts.st_size - _MAX_LOG_BYTES))
    finally:
        os.close(file)
    found = [_LOG_LINE.fullmatch(line) for line in data.split(b"\n")]
    return [
        (each[1].decode(), each[2].decode(), int(each[3]), each[4] or b"") for each in found if each
    ]
