"""Raw SQL that belongs to no app, and helpers for the raw SQL of all apps.

The SQL of an app is in its own `queries`: a function for each statement. Statements are made of
the names of our own tables and columns; all values are parameters.
"""

from __future__ import annotations

import functools
import sqlite3
import sys
import weakref
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any
from urllib.parse import quote

import orjson
import psycopg
from django.db import connection

from reef_site.common.text import to_storable

# A time in the form of the database driver: text on SQLite.
DriverTime = Any
# Around stored JSON in texts that PostgreSQL makes.
STORED = "\x1d"


def to_driver_time(at: datetime) -> DriverTime:
    """Convert a time for this database's driver."""
    return connection.ops.adapt_datetimefield_value(at)


def in_list(ids: Iterable[str]) -> tuple[str, Any]:
    """Return SQL to put after `IN`, and its parameter, for a list of texts."""
    if connection.vendor == "postgresql":
        return "(SELECT unnest(%s::text[]))", [to_storable(each) for each in ids]
    return "(SELECT value FROM json_each(%s))", orjson.dumps(list(ids)).decode()


def fetch_rows(
    columns: str, rest: str, values: Sequence[Any], head: str = ""
) -> list[Sequence[Any]]:
    """Return the rows of `<head> SELECT <columns> <rest>`, in no order on SQLite.

    SQLite's driver releases the interpreter lock for each row, and waits for it each time while
    another thread is busy: so there all rows come as one JSON text.
    """
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute(f"{head} SELECT {columns} {rest}", values)
            return list(cursor.fetchall())
    with connection.cursor() as cursor:
        sql = f"{head} SELECT json_group_array(json_array({columns})) {rest}"
        cursor.execute(sql, values)
        rows: list[Sequence[Any]] = orjson.loads(cursor.fetchone()[0])
        return rows


# Connections whose prepared statements are planned once.
_plan_once: weakref.WeakSet[Any] = weakref.WeakSet()


def fetch_prepared(sql: str, values: Mapping[str, Any]) -> list[Any]:
    """Return all rows of a statement that PostgreSQL plans once for each connection.

    For statements that are executed all the time: planning would take longer than they do, and
    Django's cursor would put the values into the text. Their plans must suit all values.
    """
    connection.ensure_connection()
    link = connection.connection
    with connection.wrap_database_errors, psycopg.Cursor(link) as cursor:
        if link not in _plan_once:
            cursor.execute("SET plan_cache_mode = force_generic_plan; SET jit = off")
            # Django's None forbids to prepare; this only leaves it to the caller.
            link.prepare_threshold = sys.maxsize
            # The rollback of a transaction also takes settings back that were set in it.
            if not connection.in_atomic_block:
                _plan_once.add(link)
        return cursor.execute(sql, values, prepare=True).fetchall()


class LoopConnection:
    """A connection for the event loop of the edge, to read from SQLite.

    It never waits: readers of SQLite wait for nobody, and this one not even for a recovery. A
    statement that takes long is broken off; both raise sqlite3.Error.
    """

    # Steps of SQLite's machine between two looks, and looks before a break: some milliseconds.
    STEPS, MOST_LOOKS = 5_000, 20

    def __init__(self) -> None:
        self._link: sqlite3.Connection | None = None
        self._looks = 0

    def _connect(self) -> sqlite3.Connection:
        path = quote(str(connection.settings_dict["NAME"]))
        link = sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=0)
        link.set_progress_handler(self._look, self.STEPS)
        return link

    def _look(self) -> bool:
        self._looks += 1
        return self._looks > self.MOST_LOOKS

    def fetch(self, sql: str, values: Mapping[str, Any]) -> list[Any]:
        """Return all rows. Raises sqlite3.Error."""
        if self._link is None:
            self._link = self._connect()
        self._looks = 0
        return self._link.execute(sql, values).fetchall()

    def close(self) -> None:
        """Close the connection."""
        if self._link:
            self._link.close()


def fetch_listed(
    columns: str, rest: str, texts: Iterable[str], link: LoopConnection | None = None
) -> list[Sequence[Any]]:
    """Return the rows of `SELECT <columns> <rest>`, where `{listed}` in `rest` is a list of texts.

    For statements that are executed all the time: without Django's cursor, and planned once. For
    the form of the rows see `fetch_rows`. `link` is for the event loop.
    """
    if connection.vendor == "postgresql":
        listed = "(SELECT unnest(%(listed)s::text[]))"
        sql = f"SELECT {columns} {rest.format(listed=listed)}"
        return fetch_prepared(sql, {"listed": [to_storable(each) for each in texts]})
    listed = "(SELECT value FROM json_each(:listed))"
    sql = f"SELECT json_group_array(json_array({columns})) {rest.format(listed=listed)}"
    values = {"listed": orjson.dumps(list(texts)).decode()}
    if link:
        ((found,),) = link.fetch(sql, values)
    else:
        connection.ensure_connection()
        with connection.wrap_database_errors:
            ((found,),) = connection.connection.execute(sql, values).fetchall()
    rows: list[Sequence[Any]] = orjson.loads(found)
    return rows


def fetch_json(
    expression: str,
    keys: list[str],
    values: Mapping[str, Any],
    link: LoopConnection | None = None,
) -> list[bytes | None]:
    """Return what this expression of text makes of each key, `q.value` in it; None for null.

    On SQLite all comes as one value, for the reason that `fetch_rows` has, and without Django's
    cursor, which would take longer than a look-up. PostgreSQL's own JSON, which has blanks, is
    between two `STORED`.
    """
    if connection.vendor == "postgresql":
        rest = "FROM unnest(%(keys)s::text[]) WITH ORDINALITY q(value, n) ORDER BY q.n"
        rows = fetch_prepared(f"SELECT {expression} {rest}", {**values, "keys": keys})
        return [None if text is None else _compact(text) for (text,) in rows]
    one = len(keys) == 1
    made = expression if one else f"group_concat(coalesce({expression}, ''), char(10))"
    source = "(SELECT :keys AS value) q" if one else "json_each(:keys) q"
    sql = f"SELECT CAST({made} AS BLOB) FROM {source}"
    given = {**values, "keys": keys[0] if one else orjson.dumps(keys).decode()}
    if link:
        ((found,),) = link.fetch(sql, given)
    else:
        connection.ensure_connection()
        with connection.wrap_database_errors:
            ((found,),) = connection.connection.execute(sql, given).fetchall()
    # JSON has no line breaks but those that are escaped.
    return [found] if one else [each or None for each in (found or b"").split(b"\n")]


def _compact(text: str) -> bytes:
    """Remove the blanks that PostgreSQL writes into stored JSON."""
    parts = text.split(STORED)
    parts[1::2] = [_compact_value(part) for part in parts[1::2]]
    return "".join(parts).encode()


@functools.lru_cache(maxsize=4096)
def _compact_value(text: str) -> str:
    """Cached: many VMs share their DNA."""
    return orjson.dumps(orjson.loads(text)).decode()


def clock_timestamp() -> datetime:
    """Return the time by the clock of PostgreSQL, in any time zone."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT clock_timestamp()")
        moment: datetime = cursor.fetchone()[0]
    return moment


def ping() -> None:
    """Ask the database for nothing. Raise DatabaseError if it does not answer."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")


_END_FROZEN = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE datname = current_database() AND usename = current_user AND pid <> pg_backend_pid()
AND application_name = ANY(%s)
AND state LIKE 'idle in transaction%%' AND state_change < clock_timestamp() - %s * interval '1 s'
"""


def end_frozen_transactions(data_folders: Iterable[str], seconds: float) -> int:
    """End transactions of these data folders that wait for their own process for so long.

    Return how many there were. The name of a connection is the id of its data folder.

    Their processes are frozen, or on a host that is gone, and would keep their locks. The limit of
    the server (`idle_in_transaction_session_timeout`) does not always end them.
    """
    if connection.vendor != "postgresql":
        return 0
    with connection.cursor() as cursor:
        cursor.execute(_END_FROZEN, [list(data_folders), seconds])
        return len(cursor.fetchall())
