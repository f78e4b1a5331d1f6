"""Agents that run in another folder than the one in their row."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from lieutenants.hosts import strays
from lieutenants.supervision.keeper.processes import started
from tests.lieutenants.rows import enlist, process_of


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("word", "is_keeper"),
    [
        ("/srv/data/keeper/keeper-0123456789ab.pyz", True),
        ("keeper-0123456789ab.pyz", True),
        ("/opt/reef/lieutenants/keeper.py", True),
        ("keeper", True),
        ("/home/ada/keeper", False),
        ("./keeper", False),
        ("beekeeper", False),
        ("/srv/keeper/run.py", False),
    ],
)
def test_only_a_keeper_counts_as_one_that_runs_elsewhere(
    tmp_path: Path, word: str, is_keeper: bool
) -> None:
    command = [sys.executable, "-S", "-c", "input()", word]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as running:
        try:
            process = process_of(enlist())
            process.transport, process.directory = "local", str(tmp_path / "gone")
            process.handle = {"keeper_pid": running.pid, "keeper_started": started(running.pid)}
            assert strays.runs_elsewhere(process) is is_keeper
        finally:
            running.kill()
