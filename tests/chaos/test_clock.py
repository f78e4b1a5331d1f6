"""The system clock is set forward and back while a whole reef runs."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterator
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.stack import Stack
from tests.waiting import until

SHIM = Path(__file__).parent.parent / "reef_site" / "clock_shim.c"
DAY = 86_400


@pytest.fixture
def shift(tmp_path: Path) -> Path:
    """Create the file with the offset of the clock, in seconds."""
    path = tmp_path / "shift"
    path.write_text("0")
    return path


@pytest.fixture
def stack(tmp_path: Path, shift: Path) -> Iterator[Stack]:
    """Start a reef whose processes use the clock of `shift`."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler")
    shim = tmp_path / "shim.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", shim, SHIM, "-ldl"], check=True)
    with Stack(tmp_path / "stack", LD_PRELOAD=str(shim), CLOCK_SHIFT_FILE=str(shift)) as running:
        yield running


def health(stack: Stack) -> dict[str, Any]:
    said: dict[str, Any] = stack.client.get("/health").json()
    return said


@pytest.mark.rotated
@pytest.mark.timeout(400)
def test_clock_change_stops_no_tick_and_makes_no_vm_silent(stack: Stack, shift: Path) -> None:
    stack.create("ada", idleLimitMinutes=10)
    body = {"id": "box", "name": "box", "role": "worker", "address": "h", "registeredBy": "t"}
    assert stack.client.post("/registry/vms", json=body).status_code == 201
    until(lambda: health(stack)["status"] == "ok", 90)

    for seconds in (DAY, 0, -180):
        shift.write_text(str(seconds))
        # Heartbeats use the new clock, and everything recovers within two minutes.
        until(partial(_heartbeat_times, stack, seconds), 60)
        until(lambda: _is_well(stack), 120)
        assert stack.client.get("/registry/vms/box").json()["liveness"] != "silent"
    assert stack.send("ada", "hello").status_code == 200
    stack.wait_idle("ada")
    assert "echo: hello" in stack.texts("ada")


def _heartbeat_times(stack: Stack, shift: int) -> bool:
    stack.client.post("/registry/vms/box/heartbeat")
    seen = datetime.fromisoformat(stack.client.get("/registry/vms/box").json()["lastSeen"])
    _is_well(stack)
    return abs(seen.timestamp() - (time.time() + shift)) < 60


def _is_well(stack: Stack) -> bool:
    said = health(stack)
    ages = [part.get("ageSeconds") for part in said["parts"].values()]
    assert all(age is None or age >= 0 for age in ages)
    facts = stack.get("ada")
    assert (facts["status"], facts["stalled"]) == ("idle", False)
    return bool(said["status"] == "ok")
