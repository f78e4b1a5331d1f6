"""A PostgreSQL server for the test run, and fixtures that connect tests to it.

The server listens on a Unix socket only and is removed after the run. Each test gets a new database
that already has our tables.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command
from django.db import connection, connections

from reef_site.install.testing_tools import find_postgresql
from tests.waiting import until

TEMPLATE = "reef_template"
_numbers = itertools.count(1)


class Cluster:
    """A running server. PostgreSQL refuses to run as root, so root starts it as `nobody`."""

    def __init__(self, programs: Path) -> None:
        self.programs = programs
        self.home = Path(tempfile.mkdtemp(prefix="reef-pg-", dir="/tmp"))
        self.account = "nobody" if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name
        if os.geteuid() == 0:
            entry = pwd.getpwnam(self.account)
            os.chown(self.home, entry.pw_uid, entry.pw_gid)
        data = str(self.home / "data")
        subprocess.run(
            [str(programs / "initdb"), "-D", data, "-U", "reef", "-A", "trust", "-E", "UTF8", "-N"],
            check=True,
            capture_output=True,
            cwd=self.home,
            **self._as_account(),
        )
        self.server = subprocess.Popen(
            [
                *(str(programs / "postgres"), "-D", data, "-k", str(self.home)),
                *("-c", "listen_addresses=", "-c", "fsync=off", "-c", "max_connections=90"),
            ],
            stdout=subprocess.DEVNULL,
            stderr=(self.home / "log").open("w"),
            cwd=self.home,
            **self._as_account(),
        )
        until(lambda: self._run("psql", "-c", "SELECT 1", "postgres") == 0, 30)

    def _as_account(self) -> dict[str, Any]:
        if os.geteuid() != 0:
            return {}
        entry = pwd.getpwnam(self.account)
        return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}

    def _run(self, program: str, *arguments: str) -> int:
        command = [str(self.programs / program), "-h", str(self.home), "-U", "reef", *arguments]
        return subprocess.run(command, capture_output=True, cwd="/").returncode

    def settings(self, name: str) -> dict[str, Any]:
        """Return Django's connection settings for a database of this server."""
        return {
            **connections.settings["default"],
            "ENGINE": "django.db.backends.postgresql",
            "NAME": name,
            "USER": "reef",
            "PASSWORD": "",
            "HOST": str(self.home),
            "PORT": "",
            "OPTIONS": {},
            "CONN_HEALTH_CHECKS": False,
        }

    def create(self, template: str = "template1") -> str:
        """Create a database and return its name."""
        name = TEMPLATE if template == "template1" else f"reef_{next(_numbers)}"
        assert self._run("createdb", "-T", template, name) == 0
        return name

    def close(self) -> None:
        """Stop the server and remove its files."""
        self.server.terminate()
        self.server.wait(20)
        shutil.rmtree(self.home, ignore_errors=True)


@contextlib.contextmanager
def connected_to(settings: dict[str, Any]) -> Iterator[None]:
    """Make Django use this database instead of the usual one, in every thread."""
    usual, kept = connections.settings["default"], connections["default"]
    connections.settings["default"] = settings
    del connections["default"]
    try:
        yield
    finally:
        connection.close()
        connections.settings["default"] = usual
        connections["default"] = kept


@pytest.fixture(scope="session")
def postgres_cluster(django_db_blocker: Any) -> Iterator[Cluster]:
    """Start the server and create a template database with our tables."""
    programs = os.environ.get("REEF_TEST_POSTGRESQL") or find_postgresql()
    if not programs:
        pytest.fail("no PostgreSQL: run the tests with `python3 manage.py test`")
    cluster = Cluster(Path(programs))
    with django_db_blocker.unblock(), connected_to(cluster.settings(cluster.create())):
        call_command("migrate", verbosity=0)
    yield cluster
    cluster.close()


@pytest.fixture
def postgres(postgres_cluster: Cluster, django_db_blocker: Any) -> Iterator[Cluster]:
    """Use a new PostgreSQL database in place of the usual one."""
    name = postgres_cluster.create(TEMPLATE)
    with django_db_blocker.unblock(), connected_to(postgres_cluster.settings(name)):
        yield postgres_cluster
