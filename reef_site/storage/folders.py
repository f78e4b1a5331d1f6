"""Sizes of the parts of a data folder."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from pathlib import Path

from django.conf import settings

# Longest time for one data folder; what is not measured by then is left out.
MAX_SECONDS = 60.0
MAX_LIEUTENANTS = 20
WORKSPACES, SESSIONS, JOURNALS, REST = "workspaces", "sessions", "journals", "other files of agents"
DATABASE, OTHER = "database", "other"
# The parts of a data folder, by the names of its entries.
_PARTS = {
    "snapshots": "snapshots",
    "logs": "logs",
    "agent": "programs",
    "dist": "programs",
    "keeper": "programs",
    "static": "programs",
}
# The parts of a lieutenant's folder.
_PARTS_OF_LIEUTENANT = {"workspace": WORKSPACES, "session": SESSIONS, "runs": JOURNALS}


@dataclass
class Size:
    """Bytes on the disk, and the number of files."""

    size_bytes: int = 0
    files: int = 0

    def add(self, other: Size) -> None:
        """Add another size to this one."""
        self.size_bytes += other.size_bytes
        self.files += other.files


@dataclass
class FolderSizes:
    """The sizes of a data folder: of its parts, and of the parts of each lieutenant's folder.

    `is_complete` is False if it took too long, or if something could not be read.
    """

    parts: dict[str, Size] = field(default_factory=dict)
    lieutenants: dict[str, dict[str, Size]] = field(default_factory=dict)
    is_complete: bool = True

    def largest(self) -> list[tuple[str, dict[str, Size]]]:
        """Return ids and parts of the lieutenants with the most bytes, the largest first."""
        total = {
            key: sum(each.size_bytes for each in self.lieutenants[key].values())
            for key in self.lieutenants
        }
        keys = sorted(total, key=lambda key: (-total[key], key))
        return [(key, self.lieutenants[key]) for key in keys[:MAX_LIEUTENANTS]]


def measure(seconds: float = MAX_SECONDS) -> FolderSizes:
    """Return the sizes of this data folder."""
    return _Walk(seconds).run()


class _Walk:
    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds
        self._found = FolderSizes()

    def run(self) -> FolderSizes:
        own = Path(settings.LIEUTENANTS_DIR)
        for entry in self._entries(settings.DATA_DIR):
            if Path(entry.path) == own:
                continue
            name = entry.name
            part = DATABASE if name.startswith("db.sqlite3") else _PARTS.get(name, OTHER)
            self._add(self._found.parts, part, self._size(entry))
        for entry in self._entries(own):
            if entry.is_dir(follow_symlinks=False) and not entry.name.startswith("."):
                self._look_at_lieutenant(entry)
            else:
                self._add(self._found.parts, OTHER, self._size(entry))
        return self._found

    def _look_at_lieutenant(self, folder: os.DirEntry[str]) -> None:
        parts = self._found.lieutenants.setdefault(folder.name, {})
        for entry in self._entries(folder.path):
            part, size = _PARTS_OF_LIEUTENANT.get(entry.name, REST), self._size(entry)
            self._add(parts, part, size)
            self._add(self._found.parts, part, size)

    @staticmethod
    def _add(parts: dict[str, Size], name: str, size: Size) -> None:
        parts.setdefault(name, Size()).add(size)

    def _size(self, entry: os.DirEntry[str]) -> Size:
        """Return the size of a file, or of a folder with all that is in it."""
        size, waiting = Size(), [entry]
        while waiting:
            each = waiting.pop()
            try:
                status = each.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue
            # A file has fewer bytes on the disk than its length if it has holes.
            size.size_bytes += status.st_blocks * 512
            if each.is_dir(follow_symlinks=False):
                waiting += self._entries(each.path)
            else:
                size.files += 1
        return size

    def _entries(self, folder: str | Path) -> list[os.DirEntry[str]]:
        if time.monotonic() > self._end:
            self._found.is_complete = False
            return []
        try:
            with os.scandir(folder) as entries:
                return list(entries)
        except FileNotFoundError:
            return []
        except OSError:
            self._found.is_complete = False
            return []
