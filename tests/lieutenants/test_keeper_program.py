"""The keeper as one file, as it is copied to other machines."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lieutenants.supervision.keeper.program import local_file, program
from tests.pythons import other_python
from tests.waiting import until


@pytest.fixture
def data_folder(tmp_path: Path, settings: Any) -> Path:
    settings.DATA_DIR = tmp_path
    return tmp_path


@pytest.mark.parametrize("is_other", [False, True], ids=["our Python", "another Python"])
def test_one_file_runs_an_agent_to_its_end(tmp_path: Path, is_other: bool) -> None:
    python = other_python() if is_other else sys.executable
    file, run = tmp_path / "keeper.pyz", tmp_path / "run"
    file.write_bytes(program())
    spec = {"run": "r", "dir": str(run), "cwd": str(tmp_path), "argv": ["/bin/sh", "-c", "exit 3"]}
    env = {"env": {"PATH": os.environ["PATH"]}}
    done = subprocess.run(
        [python, "-I", "-S", str(file), "start"],
        input=json.dumps({**spec, **env}).encode(),
        capture_output=True,
        check=True,
    )
    assert json.loads(done.stdout)["ok"] is True
    journal = run / "journal.jsonl"
    until(lambda: b'["x"' in journal.read_bytes(), 10)
    end = json.loads(journal.read_bytes().splitlines()[-1])
    assert end[2]["code"] == 3


def test_local_file_is_built_once_by_its_sources(data_folder: Path) -> None:
    file = local_file()
    assert file.read_bytes() == program()
    assert file.parent.parent == data_folder
    built = file.stat().st_ino
    assert local_file() == file
    assert file.stat().st_ino == built


def test_missing_local_file_is_built_again(data_folder: Path) -> None:
    local_file().unlink()
    assert local_file().read_bytes() == program()


def test_old_file_that_cannot_be_removed_does_not_matter(data_folder: Path) -> None:
    folder = data_folder / "keeper"
    folder.mkdir()
    # As gone as a file that another process removes after the folder was listed.
    (folder / "keeper-0123456789ab.pyz").symlink_to(data_folder / "gone")
    blocked = folder / "keeper-ba9876543210.pyz"
    blocked.mkdir()
    os.utime(blocked, (0, 0))
    assert local_file().read_bytes() == program()


def test_only_unused_files_of_older_versions_are_removed(data_folder: Path) -> None:
    folder = data_folder / "keeper"
    folder.mkdir()
    unused, used = folder / "keeper-0123456789ab.pyz", folder / "keeper-ba9876543210.pyz"
    for path in (unused, used):
        path.touch()
    os.utime(unused, (0, 0))
    newest = local_file()
    assert set(folder.iterdir()) == {newest, used}
