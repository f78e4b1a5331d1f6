"""A PostgreSQL server for the test run, and fixtures that connect tests to it.

The server listens on a Unix socket only and is removed after the run. Each test gets a database
with our tables as they are after `migrate`. It is the one of the test before, emptied, since a copy
of the template takes half a second. If that test has changed more than rows, it is a new copy.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from django.core.management import call_command
from django.db import connection, connections

from reef_site.install.testing_tools import find_postgresql
from tests.waiting import until

TEMPLATE = "reef_template"
# Above this size, a new copy of the template costs less than what deleted rows leave behind.
MAX_USED_BYTES = 4 << 20
_numbers = itertools.count(1)

OTHER_SESSIONS = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid()
"""
TABLES = "SELECT tablename::text FROM pg_tables WHERE schemaname = 'public' ORDER BY 1"
SEQUENCES = """
SELECT sequencename::text, last_value FROM pg_sequences
WHERE schemaname = 'public' AND last_value IS NOT NULL
"""
# Definitions of tables; each of their rows names the transaction that wrote it.
CATALOGS = ("pg_class", "pg_attribute", "pg_attrdef", "pg_constraint", "pg_index", "pg_trigger")
DEFINITIONS = " UNION ALL ".join(
    f"(SELECT count(*), max(xmin::text::bigint) FROM {name})" for name in CATALOGS
)


class Fresh:
    """The state of the template, and how to bring a used copy of it back to that."""

    def __init__(self, link: psycopg.Connection) -> None:
        """Read it from the template."""
        self.tables = [name for (name,) in link.execute(TABLES)]
        self.definitions = link.execute(DEFINITIONS).fetchall()
        self.rows = {name: self._read(link, name) for name in self._with_rows(link, self.tables)}
        self.sequences: dict[str, int] = dict(link.execute(SEQUENCES).fetchall())

    def restore(self, link: psycopg.Connection) -> bool:
        """Undo changes of rows; return False if there are others or too many."""
        link.execute(OTHER_SESSIONS)
        if link.execute(DEFINITIONS).fetchall() != self.definitions:
            return False
        changed = [name for name, rows in self.rows.items() if self._read(link, name) != rows]
        used = self._with_rows(link, [name for name in self.tables if name not in self.rows])
        if sum(self._size(link, name) for name in used) > MAX_USED_BYTES:
            return False
        with link.transaction():
            # Foreign keys are triggers; without them, the order of tables does not matter.
            link.execute("SET LOCAL session_replication_role = replica")
            for name in (*used, *changed):
                link.execute(f'DELETE FROM "{name}"')
            for name in changed:
                with link.cursor().copy(f'COPY "{name}" FROM STDIN') as copy:
                    copy.write(self.rows[name])
            for name, _ in link.execute(SEQUENCES).fetchall():
                last = self.sequences.get(name)
                link.execute("SELECT setval(%s, %s, %s)", (f'"{name}"', last or 1, bool(last)))
        return True

    @staticmethod
    def _read(link: psycopg.Connection, table: str) -> bytes:
        with link.cursor().copy(f'COPY "{table}" TO STDOUT') as copy:
            return b"".join(bytes(each) for each in copy)

    @staticmethod
    def _size(link: psycopg.Connection, table: str) -> int:
        row = link.execute("SELECT pg_table_size(%s)", (f'"{table}"',)).fetchone()
        assert row
        return int(row[0])

    @staticmethod
    def _with_rows(link: psycopg.Connection, tables: list[str]) -> list[str]:
        parts = [f"SELECT '{name}' WHERE EXISTS (SELECT FROM \"{name}\")" for name in tables]
        return [name for (name,) in link.execute(" UNION ALL ".join(parts))]


class Cluster:
    """A running PostgreSQL server. It refuses to run as root, so root starts it as `nobody`."""

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
                *("-c", "full_page_writes=off"),
            ],
            stdout=subprocess.DEVNULL,
            stderr=(self.home / "log").open("w"),
            cwd=self.home,
            **self._as_account(),
        )
        until(lambda: self._run("psql", "-c", "SELECT 1", "postgres") == 0, 30)
        self._fresh: Fresh | None = None
        self._used = ""

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

    def database(self) -> str:
        """Return the name of a database as it is after `migrate`, for one test at a time."""
        if self._fresh is None:
            with self._link(TEMPLATE) as link:
                self._fresh = Fresh(link)
        if self._used:
            with self._link(self._used) as link:
                restored = self._fresh.restore(link)
            if restored:
                return self._used
            assert self._run("dropdb", "--force", self._used) == 0
        self._used = self.create(TEMPLATE)
        return self._used

    def _link(self, name: str) -> psycopg.Connection:
        return psycopg.connect(host=str(self.home), user="reef", dbname=name, autocommit=True)

    def close(self) -> None:
        """Stop the server at once, without a last checkpoint, and remove its files."""
        self.server.send_signal(signal.SIGQUIT)
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
    """Use a PostgreSQL database without rows in place of the usual one."""
    name = postgres_cluster.database()
    with django_db_blocker.unblock(), connected_to(postgres_cluster.settings(name)):
        yield postgres_cluster
