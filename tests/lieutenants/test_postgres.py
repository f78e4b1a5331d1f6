"""The same on PostgreSQL: the core path's tests in a run of their own, and real races."""

from __future__ import annotations

import os
import pwd
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from django.conf import settings

from reef_site.install.testing_tools import find_postgresql

pytestmark = [pytest.mark.postgres, pytest.mark.timeout(600)]

HERE = Path(__file__).resolve().parent
CORE = ("session", "follower", "discover")
ENDINGS = "exit_in_mid or on_failure or successor or dead_keeper or reboot or breath"


def _unprivileged() -> dict[str, int | str]:
    """PostgreSQL refuses to run as root; then it runs as the user `postgres`, or `nobody`."""
    if os.getuid():
        return {}
    for name in ("postgres", "nobody"):
        try:
            user = pwd.getpwnam(name)
        except KeyError:
            continue
        return {"user": user.pw_uid, "group": user.pw_gid}
    return {}


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The address of a server of the test's own: a cluster in a temporary folder, no TCP port."""
    found = os.environ.get("REEF_TEST_POSTGRESQL") or find_postgresql()
    if not found:
        pytest.fail("no PostgreSQL: run the tests with `python3 manage.py test`")
    bin_dir = Path(found)
    folder = Path(tempfile.mkdtemp(prefix="reef-pg-"))
    who = _unprivileged()
    if who:
        os.chown(folder, int(who["user"]), int(who["group"]))
    cluster = folder / "data"
    run = {"cwd": folder, "check": True, "stdout": subprocess.DEVNULL, **who}
    try:
        initdb = ["-U", "reef", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"]
        subprocess.run([bin_dir / "initdb", "-D", cluster, *initdb], **run)  # type: ignore[call-overload]
        options = f"-k {folder} -c listen_addresses= -c fsync=off -c max_connections=200"
        control = [bin_dir / "pg_ctl", "-D", cluster, "-w", "-l", folder / "log"]
        subprocess.run([*control, "-o", options, "start"], **run)  # type: ignore[call-overload]
        yield f"postgres://reef@/postgres?host={folder}"
        subprocess.run([*control, "-m", "immediate", "stop"], **run)  # type: ignore[call-overload]
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def run_tests(address: str, *arguments: str) -> str:
    """A pytest of its own on this database; its last line."""
    ours = ("PYTEST_", "REEF_TESTS_DATA")
    env = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    env |= {"DATABASE_URL": address, "REEF_TESTS_KEEP": "DATABASE_URL"}
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-n",
        "0",
        "-p",
        "no:cacheprovider",
        *arguments,
    ]
    done = subprocess.run(
        command, env=env, cwd=settings.BASE_DIR, capture_output=True, text=True, timeout=500
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    return done.stdout.strip().rpartition("\n")[2]


def passed(line: str) -> int:
    """Return the number of passed tests in pytest's last line, if none was skipped."""
    found = re.match(r"(\d+) passed", line)
    assert found, line
    assert "skipped" not in line
    return int(found[1])


@pytest.mark.thorough
def test_the_core_path_works_on_postgresql(postgres: str) -> None:
    files = [str(HERE / f"test_{name}.py") for name in CORE]
    # What is killed there is killed on SQLite: the database sees the same.
    assert passed(run_tests(postgres, *files, "-k", "not twenty_kills")) >= 80


@pytest.mark.thorough
def test_endings_work_on_postgresql(postgres: str) -> None:
    assert passed(run_tests(postgres, str(HERE / "test_endings.py"), "-k", ENDINGS)) == 6


@pytest.mark.rotated
def test_only_one_wins_a_race_on_postgresql(postgres: str) -> None:
    # In one run, since each loads all of reef.
    files = [str(HERE / "test_races.py"), str(HERE / "remote" / "test_takeover.py")]
    assert passed(run_tests(postgres, *files)) >= 4 + 9


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("name", "least"), [("cuts", 3), ("remote_command", 15), ("remote_vms", 12)]
)
def test_agents_on_vms_work_on_postgresql(postgres: str, name: str, least: int) -> None:
    assert passed(run_tests(postgres, str(HERE / "remote" / f"test_{name}.py"))) >= least
