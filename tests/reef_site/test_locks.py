"""Lock files that are removed while they are held."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

import pytest

from reef_site.common import locks
from reef_site.common.locks import FileLock


def test_lock_has_one_holder(tmp_path: Path) -> None:
    first, second = FileLock(tmp_path / "lock"), FileLock(tmp_path / "lock")
    assert first.try_take()
    assert not second.try_take()
    assert locks.is_held(first.path)
    first.release()
    assert second.try_take()


def test_holder_retakes_removed_lock_file(tmp_path: Path) -> None:
    first, second = FileLock(tmp_path / "lock"), FileLock(tmp_path / "lock")
    assert first.try_take()
    first.path.unlink()
    assert first.keep()
    assert not second.try_take()


def test_holder_yields_to_quicker_process(tmp_path: Path) -> None:
    first, second = FileLock(tmp_path / "lock"), FileLock(tmp_path / "lock")
    assert first.try_take()
    first.path.unlink()
    assert second.try_take()
    assert not first.keep()
    assert not first.try_take()
    assert second.keep()


def test_holder_survives_removal_of_folder(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    lock = FileLock(folder / "lock")
    assert lock.try_take()
    lock.path.unlink()
    folder.rmdir()
    assert lock.keep()
    folder.mkdir()
    assert lock.keep()
    assert locks.is_held(lock.path)


def test_held_lock_file_is_touched(tmp_path: Path) -> None:
    lock = FileLock(tmp_path / "lock")
    assert lock.try_take()
    long_ago = time.time() - 30 * 86400
    os.utime(lock.path, (long_ago, long_ago))
    assert lock.keep()
    assert time.time() - lock.path.stat().st_mtime < 60


def test_a_lock_of_a_folder_is_seen(tmp_path: Path) -> None:
    folder = os.open(tmp_path, os.O_RDONLY)
    assert not locks.is_held(tmp_path)
    fcntl.flock(folder, fcntl.LOCK_EX)
    assert locks.is_held(tmp_path)
    os.close(folder)
    assert not locks.is_held(tmp_path)


def test_an_absent_path_is_not_held(tmp_path: Path) -> None:
    assert not locks.is_held(tmp_path / "absent")
    with pytest.raises(FileNotFoundError):
        locks.is_held(tmp_path / "absent", strict=True)
