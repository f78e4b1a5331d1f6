"""The keeper as one file, as it is copied to other machines."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lieutenants.supervision.keeper.program import program
from tests.pythons import other_python
from tests.waiting import until


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
