"""Run a program once, isolated like an agent."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from lieutenants.isolation.plan import Plan
from lieutenants.supervision.keeper.program import local_file

# Ends what runs on if we are killed while it runs.
_MAX_CPU_SECONDS = 60


def run_confined(
    plan: Plan,
    argv: Sequence[str],
    *,
    env: Mapping[str, str],
    cwd: Path,
    seconds: float,
    max_file_bytes: int,
) -> None:
    """Run the program without input and output until it ends, then kill what it left behind.

    Raises OSError if it cannot be run, subprocess.TimeoutExpired.
    """
    spec = {
        "argv": [*plan.argv, *argv],
        "env": dict(env),
        "cwd": str(cwd),
        "isolation": plan.rules,
        "max_file_bytes": max_file_bytes,
        "max_cpu_seconds": _MAX_CPU_SECONDS,
    }
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", str(local_file()), "confine"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={"PATH": os.environ.get("PATH", os.defpath)},
        start_new_session=True,
    )
    try:
        problem, _ = process.communicate(json.dumps(spec).encode(), timeout=seconds)
    finally:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe:
                pipe.close()
    if problem:
        raise OSError(problem.decode("utf-8", "replace"))
