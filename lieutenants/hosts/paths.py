"""Correction of paths in rows and session files after a data folder was moved."""

from __future__ import annotations

import json
import logging
import os
import secrets
import stat
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import IO, Any

from django.conf import settings

from lieutenants.models import Lieutenant, Process

logger = logging.getLogger(__name__)

MAX_HEADER_BYTES = 1 << 16
# A larger session file is not copied; agents reject it anyway.
MAX_FILE_BYTES = 1 << 30
_COPY_BYTES = 1 << 20


def correct_paths(folder_id: str, known: str) -> int:
    """Change the paths in this data folder's rows to its current location; return their number.

    `known` is its last known location. Rows of earlier versions show the location themselves. Paths
    outside of the data folder stay unchanged.
    """
    mine = Lieutenant.objects.filter(data_folder=folder_id, transport="local")
    rows = list(mine.only("pk", "folder", "session_name"))
    here = Process.objects.filter(data_folder=folder_id, transport="local")
    runs = list(here.only("pk", "directory", "handle"))
    old = {PurePosixPath(known)} if known else set()
    old |= {
        base
        for row in rows
        if (base := _without_ending(row.folder, f"lieutenants/{row.pk}/workspace"))
    }
    old.discard(PurePosixPath(settings.DATA_DIR))
    if not old:
        return 0
    changed = 0
    for row in rows:
        if folder := _new_path(row.folder, old):
            changed += Lieutenant.objects.filter(pk=row.pk).update(folder=folder)
        _correct_session(row, old)
    for run in runs:
        if directory := _new_path(run.directory, old):
            # The agent was started with paths that do not exist any more.
            handle = {**run.handle, "moved_from": run.directory} if run.handle else run.handle
            changed += Process.objects.filter(pk=run.pk).update(directory=directory, handle=handle)
    return changed


def _without_ending(path: str, ending: str) -> PurePosixPath | None:
    """Return the path without its ending; None if it ends differently."""
    return PurePosixPath(path.removesuffix("/" + ending)) if path.endswith("/" + ending) else None


def _new_path(path: str, old: Iterable[PurePosixPath]) -> str:
    """Return the new path of a file below one of the old locations; empty if below none."""
    for base in old:
        if PurePosixPath(path).is_relative_to(base):
            return str(settings.DATA_DIR / PurePosixPath(path).relative_to(base))
    return ""


def _correct_session(lieutenant: Lieutenant, old: Iterable[PurePosixPath]) -> None:
    """Correct the working folder in the session file: agents reject one that does not exist."""
    folder = settings.LIEUTENANTS_DIR / lieutenant.pk / "session"
    try:
        # The agent owns the folder, so do not follow links in it.
        inside = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return
    try:
        _rewrite_header(inside, lieutenant.session_name, old)
    except FileNotFoundError:
        return
    except (OSError, ValueError) as error:
        logger.warning("the session of %s still names its old folder: %s", lieutenant.pk, error)
    finally:
        os.close(inside)


def _rewrite_header(folder: int, name: str, old: Iterable[PurePosixPath]) -> None:
    """Replace the working folder in the first line of the session file, if it has moved."""
    # The agent may have put a pipe there; neither opening nor reading it may block.
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    with os.fdopen(os.open(name, flags, dir_fd=folder), "rb") as file:
        facts = os.fstat(file.fileno())
        if not stat.S_ISREG(facts.st_mode) or facts.st_nlink != 1:
            return
        first = file.readline(MAX_HEADER_BYTES)
        found = json.loads(first) if first.endswith(b"\n") else None
        header: dict[str, Any] = found if isinstance(found, dict) else {}
        cwd = header.get("cwd")
        moved = _new_path(cwd, old) if isinstance(cwd, str) else ""
        if not moved:
            return
        if facts.st_size > MAX_FILE_BYTES:
            raise ValueError(f"it has {facts.st_size} bytes, at most {MAX_FILE_BYTES} are copied")
        draft = f".reef.{secrets.token_hex(8)}.draft"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        target = os.open(draft, flags, stat.S_IMODE(facts.st_mode) & 0o777, dir_fd=folder)
        with os.fdopen(target, "wb") as new:
            if os.geteuid() == 0:
                os.fchown(target, facts.st_uid, facts.st_gid)
            new.write(json.dumps({**header, "cwd": moved}).encode() + b"\n")
            _copy(file, new, facts.st_size - len(first))
        os.replace(draft, name, src_dir_fd=folder, dst_dir_fd=folder)


def _copy(source: IO[bytes], target: IO[bytes], size: int) -> None:
    """Copy at most `size` bytes: the file may grow meanwhile."""
    while size > 0 and (piece := source.read(min(size, _COPY_BYTES))):
        size -= len(piece)
        target.write(piece)


def is_local_run(directory: str) -> bool:
    """Return whether a run folder is in this data folder."""
    return Path(directory, "keeper.json").exists()
