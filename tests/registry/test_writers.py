"""Four processes write to one database at the same time: none is turned away, nothing is lost."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.stack import ROOT

# REEF_TEST_WRITE_SECONDS=30 is the acceptance test; a shorter time finds the same errors.
SECONDS = float(os.environ.get("REEF_TEST_WRITE_SECONDS", "3"))
WRITERS = ("beats", "registrations", "tree", "snapshots")
VMS = 300


def start(data: Path, *words: str) -> subprocess.Popen[bytes]:
    env = {
        **{key: os.environ[key] for key in ("PATH", "HOME", "LANG") if key in os.environ},
        "REEF_DATA_DIR": str(data),
        "DJANGO_SETTINGS_MODULE": "reef_site.settings",
        # There is no Redis at this address: writers must work without it.
        "REDIS_URL": f"unix://{data}/none.sock",
    }
    return subprocess.Popen(
        [sys.executable, *words], cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def result(process: subprocess.Popen[bytes], seconds: float) -> str:
    out, err = process.communicate(timeout=seconds)
    assert process.returncode == 0, err.decode()[-3000:]
    return out.decode()


@pytest.mark.rotated
@pytest.mark.timeout(180)
def test_four_concurrent_writers_lose_nothing(tmp_path: Path) -> None:
    data = tmp_path / "data"
    result(start(data, "manage.py", "migrate", "--verbosity", "0"), 90)
    result(start(data, "-m", "tests.registry.writers", "seed", str(VMS)), 60)
    running = {
        name: start(data, "-m", "tests.registry.writers", name, str(SECONDS)) for name in WRITERS
    }
    done = {name: json.loads(result(process, SECONDS + 60)) for name, process in running.items()}
    assert all(facts["rounds"] > 0 for facts in done.values()), done
    assert [facts["longest"] for facts in done.values() if facts["longest"] > 8.0] == []
    check = start(data, "-m", "tests.registry.writers", "check", json.dumps(done))
    assert result(check, 60).strip() == "nothing is lost"
