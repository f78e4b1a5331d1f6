"""Lists the files of a repository that differ from a base, with counts."""

from __future__ import annotations

import os
import stat

from . import names
from .git import Failed, Problem

TYPE_CHECKING = False  # importing typing would cost a megabyte
if TYPE_CHECKING:
    from typing import Any

    from .bases import Base
    from .git import Git
    from .heads import Repository

MB = 1 << 20
MAX_FILES, MAX_COMMITS = 1000, 50
_MAX_LIST_BYTES, _MAX_NAMES_BYTES = 4 * MB, MB // 4
# Of new files, so much is read to count lines: of one, and of all.
MAX_READ_BYTES, _MAX_ALL_BYTES = 2 * MB, 32 * MB
BINARY_HEAD = 8000
DIFF = (
    *("diff", "--no-ext-diff", "--no-textconv", "--no-color", "--relative", "--find-renames"),
    *("-l500", "--ignore-submodules=dirty", "--submodule=short"),
)
_STATUS = {
    "A": "added",
    "C": "copied",
    "D": "deleted",
    "M": "modified",
    "R": "renamed",
    "T": "modified",
    "U": "conflict",
}
_KINDS = {"160000": "submodule", "120000": "link"}


class Entry:
    """A file that differs. Paths are bytes, counts None if unknown."""

    def __init__(self, path: bytes, status: str, old_path: bytes = b"") -> None:
        self.path, self.status, self.old_path = path, status, old_path
        self.kind = "file"
        self.added: int | None = None
        self.deleted: int | None = None
        self.is_binary = False
        self.is_committed = False
        self.modes = ""
        # Changes with the file in the folder.
        self.mark = ""

    def facts(self) -> dict[str, Any]:
        return {
            "path": names.quote(self.path),
            "old_path": names.quote(self.old_path) if self.old_path else "",
            "status": self.status,
            "kind": self.kind,
            "added": self.added,
            "deleted": self.deleted,
            "binary": self.is_binary,
            "committed": self.is_committed,
            "modes": self.modes,
            "mark": self.mark,
        }


def list_changes(repository: Repository, base: Base, since: float | None) -> dict[str, Any]:
    """Return the files that differ, sorted by path, and the commits since the base."""
    git, is_cut = repository.git, False
    try:
        entries, is_cut = tracked(git, base.tree)
        untracked, too_many = _untracked(git)
        uncommitted = _uncommitted(repository, base)
        committed = _committed(repository, base, since)
        commits = _commits(repository, base)
    except Failed as trouble:
        raise Problem("broken", str(trouble)) from None
    all_entries = sorted([*entries, *untracked], key=lambda each: each.path)
    found = [
        each
        for each in all_entries
        if since is None or each.path in committed or _is_written_since(git, each, since)
    ]
    shown = _head_of(found)
    for each in shown:
        each.is_committed = uncommitted is not None and each.path not in uncommitted
        each.mark = _mark(git, each)
    has_counts = _count_tracked(git, base.tree, shown)
    _count_untracked(git, shown)
    return {
        "files": [each.facts() for each in shown],
        "count": len(found),
        "cut": is_cut or too_many,
        "earlier": len(all_entries) - len(found),
        "counted": has_counts,
        "commits": commits,
    }


def _head_of(entries: list[Entry]) -> list[Entry]:
    """Return the first entries, as many as an answer has room for."""
    shown, left = [], _MAX_NAMES_BYTES
    for entry in entries[:MAX_FILES]:
        left -= len(entry.path) + len(entry.old_path)
        if left < 0:
            break
        shown.append(entry)
    return shown


# -- files that git knows ------------------------------------------------------------------------


def tracked(git: Git, tree: str, *paths: bytes) -> tuple[list[Entry], bool]:
    """Return the files that git knows and that differ, and whether there are more."""
    output = git.run(*DIFF, "--raw", "-z", tree, "--", *paths, limit=_MAX_LIST_BYTES)
    words, entries = output.split(b"\0"), []
    # The last word is empty, or the beginning of one that was cut off.
    left = iter(words[:-1])
    for head in left:
        old_mode, new_mode, _, _, code = head.decode("ascii", "replace").lstrip(":").split(" ")
        path, old_path = next(left, b""), b""
        if code[0] in "RC":
            path, old_path = next(left, b""), path
        if not path:
            break
        entry = Entry(path, _STATUS.get(code[0], "modified"), old_path)
        entry.kind = _KINDS.get(new_mode if new_mode != "000000" else old_mode, "file")
        if entry.status in ("modified", "renamed", "copied") and old_mode != new_mode:
            entry.modes = "{} → {}".format(old_mode, new_mode)
        entries.append(entry)
    return _without_doubles(entries), output.is_cut


def _without_doubles(entries: list[Entry]) -> list[Entry]:
    """Keep one entry a path: git lists a conflict beside the change itself."""
    found: dict[bytes, Entry] = {}
    for entry in entries:
        known = found.setdefault(entry.path, entry)
        if entry.status == "conflict":
            known.status = "conflict"
    return list(found.values())


def _uncommitted(repository: Repository, base: Base) -> set[bytes] | None:
    """Return the paths that differ from the present commit; None if that is the base itself."""
    if not repository.head or base.commit == repository.head:
        return None
    words = (*DIFF, "--no-renames", "--name-only", "-z", repository.head, "--")
    found = set(repository.git.run(*words, limit=_MAX_LIST_BYTES).split(b"\0"))
    others, _ = _untracked(repository.git)
    return found | {each.path for each in others}


def _committed(repository: Repository, base: Base, since: float | None) -> set[bytes]:
    """Return the paths that commits have changed since the base."""
    if since is None or not repository.head or base.commit == repository.head:
        return set()
    words = ("diff-tree", "-r", "-z", "--name-only", "--relative", base.tree, repository.head)
    return set(repository.git.run(*words, limit=_MAX_LIST_BYTES).split(b"\0"))


def _count_tracked(git: Git, tree: str, entries: list[Entry]) -> bool:
    """Set the counts of files that git knows; return False if that took too long."""
    known = {each.path: each for each in entries if each.status != "untracked"}
    if not known:
        return True
    try:
        output = git.run(*DIFF, "--numstat", "-z", tree, "--", limit=_MAX_LIST_BYTES)
    except (Problem, Failed):
        return False
    left = iter(output.split(b"\0"))
    for line in left:
        added, _, rest = line.partition(b"\t")
        deleted, _, path = rest.partition(b"\t")
        if line and not path:  # a renamed file: its old and its new name follow
            next(left, b"")
            path = next(left, b"")
        entry = known.get(path)
        if entry is None:
            continue
        entry.is_binary = added == b"-"
        if added.isdigit() and deleted.isdigit():
            entry.added, entry.deleted = int(added), int(deleted)
    return True


# -- new files -----------------------------------------------------------------------------------


def _untracked(git: Git, *paths: bytes) -> tuple[list[Entry], bool]:
    options = ("ls-files", "--others", "--exclude-standard", "-z", "--")
    output = git.run(*options, *paths, limit=_MAX_LIST_BYTES)
    entries = []
    for path in output.split(b"\0")[:-1]:
        entry = Entry(path.rstrip(b"/"), "untracked")
        entry.kind = _kind_of(git, path)
        entries.append(entry)
    return entries, output.is_cut


def find_untracked(git: Git, path: bytes) -> Entry | None:
    """Return this file if git does not know it and would not ignore it."""
    return next((each for each in _untracked(git, path)[0] if each.path == path), None)


def _kind_of(git: Git, path: bytes) -> str:
    if path.endswith(b"/"):
        return "repository"
    mode = _mode(git, path)
    return "link" if stat.S_ISLNK(mode) else "file" if stat.S_ISREG(mode) or not mode else "other"


def _mode(git: Git, path: bytes) -> int:
    try:
        return os.lstat(os.path.join(os.fsencode(git.folder), path)).st_mode
    except OSError:
        return 0


def _count_untracked(git: Git, entries: list[Entry]) -> None:
    left = _MAX_ALL_BYTES
    for entry in entries:
        if entry.status != "untracked" or entry.kind not in ("file", "link"):
            continue
        data, is_cut = read_new(git, entry, min(MAX_READ_BYTES, left))
        left -= len(data)
        entry.is_binary = is_binary(data)
        if not entry.is_binary and not is_cut:
            entry.added = data.count(b"\n") + (not data.endswith(b"\n") and bool(data))
            entry.deleted = 0


def is_binary(data: bytes) -> bool:
    """Return whether git would call it binary."""
    return b"\0" in data[:BINARY_HEAD]


def read_new(git: Git, entry: Entry, limit: int) -> tuple[bytes, bool]:
    """Return the head of a new file, or where a link leads, and whether there is more."""
    path = os.path.join(os.fsencode(git.folder), entry.path)
    try:
        if entry.kind == "link":
            return os.readlink(path), False
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        file = os.open(path, flags)
    except OSError:
        return b"", True
    with open(file, "rb") as source:
        if not stat.S_ISREG(os.fstat(file).st_mode):
            return b"", True
        data = source.read(limit + 1)
    return data[:limit], len(data) > limit


# -- times and commits ---------------------------------------------------------------------------


def _is_written_since(git: Git, entry: Entry, since: float) -> bool:
    """Return whether a file was written, moved or deleted since a time."""
    path = os.path.join(os.fsencode(git.folder), entry.path)
    while True:
        try:
            facts = os.lstat(path)
        except (FileNotFoundError, NotADirectoryError):
            # Deleting a file changes the folder that it was in.
            path = os.path.dirname(path)
            continue
        except OSError:
            return True
        return max(facts.st_mtime, facts.st_ctime) >= since


def _mark(git: Git, entry: Entry) -> str:
    try:
        facts = os.lstat(os.path.join(os.fsencode(git.folder), entry.path))
    except OSError:
        return ""
    return "{:x}-{:x}".format(facts.st_mtime_ns, facts.st_size)


def _commits(repository: Repository, base: Base) -> list[dict[str, Any]]:
    """Return the commits since the base, newest first."""
    if not repository.head or base.commit == repository.head:
        return []
    between = [repository.head] + (["^" + base.commit] if base.commit else [])
    form = "--format=%H%x1f%at%x1f%an%x1f%s"
    words = ("log", "-z", "--no-show-signature", form, "--max-count={}".format(MAX_COMMITS + 1))
    try:
        output = repository.git.run(*words, *between, "--", limit=MB)
    except Failed:
        return []
    found = []
    for record in output.split(b"\0"):
        fields = record.decode("utf-8", "replace").split("\x1f", 3)
        if len(fields) == 4:
            facts = {"commit": fields[0], "at": int(fields[1] or 0)}
            found.append({**facts, "author": fields[2][:100], "subject": fields[3][:200]})
    return found
