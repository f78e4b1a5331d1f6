"""Programs in one file."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from reef_site.common import archives
from tests.pythons import other_python

SOURCES = {
    "tool/__init__.py": b"",
    "tool/run.py": b"from . import parts\n\ndef main(arguments, archive):\n"
    b"    print(parts.__file__, archive)\n    return len(arguments)\n",
    "tool/parts.py": b"x = 1\n",
}


@pytest.fixture
def tool(tmp_path: Path) -> Path:
    path = tmp_path / "tool.pyz"
    path.write_bytes(archives.build(SOURCES, "tool.run"))
    return path


def run(python: str, tool: Path, *arguments: str) -> list[str]:
    done = subprocess.run(
        [python, "-I", "-S", str(tool), *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == len(arguments), done.stderr
    return done.stdout.split()


def test_archive_runs_from_bytecode(tool: Path) -> None:
    assert run(sys.executable, tool, "a", "b") == [f"{tool}/tool/parts.pyc", str(tool)]
    assert os.listdir(tool.parent) == ["tool.pyz"]


def test_same_sources_give_the_same_archive(tool: Path) -> None:
    assert tool.read_bytes() == archives.build(SOURCES, "tool.run")


def test_other_python_gets_a_copy_with_its_own_bytecode(tool: Path) -> None:
    python = other_python()
    module, copy = run(python, tool)
    assert module == f"{tool}/tool/parts.py"
    assert copy.startswith(f"{tool}.cpython-3")
    assert run(python, Path(copy)) == [f"{copy}/tool/parts.pyc", copy]
    assert run(python, tool)[1] == copy
    assert len(os.listdir(tool.parent)) == 2


def test_changed_archive_gets_another_copy(tool: Path) -> None:
    _, copy = run(other_python(), tool)
    changed = {**SOURCES, "tool/parts.py": b"x = 22\n"}
    tool.write_bytes(archives.build(changed, "tool.run"))
    assert run(other_python(), tool)[1] != copy


def test_threads_that_write_the_same_file_leave_it_complete(tmp_path: Path) -> None:
    path, data = tmp_path / "tool.pyz", os.urandom(1 << 20)
    with ThreadPoolExecutor(8) as threads:
        for written in [threads.submit(archives.write, str(path), data) for _ in range(24)]:
            written.result()
    assert path.read_bytes() == data
    assert os.listdir(tmp_path) == ["tool.pyz"]


def test_existing_file_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "tool.pyz"
    path.write_bytes(b"old")
    archives.write(str(path), b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["tool.pyz"]


def test_archive_runs_where_no_copy_can_be_made(tool: Path) -> None:
    sealed = tool.with_name("sealed")
    sealed.mkdir()
    blocked = tool.rename(sealed / ("t" * 251 + ".pyz"))  # longer names are not allowed
    assert run(other_python(), blocked)[1] == str(blocked)
