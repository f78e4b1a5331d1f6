"""Lock files that are swept away while they are held."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

import pytest

from reef_site.common import locks
from reef_site.common.locks import FileLock


def test_a_lock_is_held_by_one(tmp_path: Path) -> None:
    first, second = FileLock(tmp_path / "lock"), FileLock(tmp_path / "lock")
    assert first.try_take()
    assert not second.try_take()
    assert locks.is_held(first.path)
    first.release()
    assert second.try_take()


def test_a_removed_file_is_locked_anew_by_its_holder(tmp_path: Path) -> None:
    first, second = FileLock(tmp_path / "lock"), FileLock(tmp_path / "lock")
    assert first.try_take()
    first.path.unlink()
    assert first.keep()
    assert not second.try_take()


def test_a_holder_yields_to_one_that_was_quicker(tmp_path: Path) -> None:
    first, second = FileLock(tmp_path / "lock"), FileLock(tmp_path / "lock")
    assert first.try_take()
    first.path.unlink()
    assert second.try_take()
    assert not first.keep()
    assert not first.try_take()
    assert second.keep()


def test_a_holder_whose_folder_is_gone_goes_on(tmp_path: Path) -> None:
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


def test_a_file_that_is_held_does_not_grow_old(tmp_path: Path) -> None:
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
