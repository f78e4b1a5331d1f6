"""Other versions of Python on this machine, for programs that run on any VM."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


def oldest_python() -> str:
    """Return the oldest Python of this machine that such programs are written for."""
    folders = [Path(each) for each in os.environ["PATH"].split(":")]
    folders += sorted((Path.home() / ".pyenv" / "versions").glob("3.*/bin"))
    for minor in range(8, 11):
        for program in (folder / f"python3.{minor}" for folder in folders):
            # A program on the path may be a stand-in for one that is not installed.
            if program.exists() and not subprocess.call(
                [program, "-c", ""], stderr=subprocess.DEVNULL
            ):
                return str(program)
    return sys.executable


def other_python() -> str:
    """Return a Python of another version than ours, or skip the test."""
    python = oldest_python()
    if python == sys.executable:
        pytest.skip("this machine has no other Python")
    return python
