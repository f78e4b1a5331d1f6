"""Run a program once, isolated like an agent."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from lieutenants.isolation.plan import Plan
from lieutenants.supervision.keeper.program import local_file

# Ends what runs on if we are killed while it runs.
_MAX_CPU_SECONDS = 60
_REAP_SECONDS = 5.0


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
    spec = _spec(plan, argv, env=env, cwd=cwd, max_file_bytes=max_file_bytes)
    with _started(stderr=subprocess.DEVNULL) as process:
        problem, _ = process.communicate(json.dumps(spec).encode(), timeout=seconds)
    _check(problem)


def read_confined(
    plan: Plan,
    argv: Sequence[str],
    given: str,
    *,
    env: Mapping[str, str],
    cwd: Path,
    seconds: float,
    max_file_bytes: int,
    max_bytes: int,
) -> bytes:
    """Run the program with this input, return what it prints, then kill what it left behind.

    Raises OSError if it cannot be run or prints more than `max_bytes`, subprocess.TimeoutExpired.
    """
    spec = _spec(plan, argv, env=env, cwd=cwd, max_file_bytes=max_file_bytes)
    with _started(stderr=subprocess.PIPE) as process:
        assert process.stdin
        assert process.stdout
        assert process.stderr
        # It reads all of this before it does anything.
        process.stdin.write(json.dumps({**spec, "input": given}).encode())
        process.stdin.close()
        end = time.monotonic() + seconds
        output = _read(process.stdout, max_bytes, end, process, seconds)
        # Closed when the program begins, so that its own errors are not in there.
        problem = _read(process.stderr, max_bytes, end, process, seconds)
    _check(problem)
    return output


def _spec(
    plan: Plan,
    argv: Sequence[str],
    *,
    env: Mapping[str, str],
    cwd: Path,
    max_file_bytes: int,
) -> dict[str, Any]:
    return {
        "argv": [*plan.argv, *argv],
        "env": dict(env),
        "cwd": str(cwd),
        "isolation": plan.rules,
        "max_file_bytes": max_file_bytes,
        "max_cpu_seconds": _MAX_CPU_SECONDS,
    }


@contextlib.contextmanager
def _started(*, stderr: int) -> Iterator[subprocess.Popen[bytes]]:
    """Start the process that becomes the program, and kill it with all that it has started."""
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", str(local_file()), "confine"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=stderr,
        env={"PATH": os.environ.get("PATH", os.defpath)},
        start_new_session=True,
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        # The kernel may hold it, such as on a network file system; then it is reaped later.
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_REAP_SECONDS)
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe:
                pipe.close()


def _read(
    pipe: IO[bytes], limit: int, end: float, process: subprocess.Popen[bytes], seconds: float
) -> bytes:
    data = bytearray()
    while True:
        left = end - time.monotonic()
        if left <= 0 or not select.select([pipe], [], [], left)[0]:
            raise subprocess.TimeoutExpired(process.args, seconds)
        chunk = os.read(pipe.fileno(), 1 << 16)
        if not chunk:
            return bytes(data)
        data += chunk
        if len(data) > limit:
            raise OSError(f"it prints more than {limit} bytes")


def _check(problem: bytes) -> None:
    if problem:
        raise OSError(problem.decode("utf-8", "replace"))
