"""Raw SQL of the event log: which events are certain on PostgreSQL.

There, a transaction with a lower number may commit after one with a higher number. So each
transaction that records events first takes a shared advisory lock whose key holds a number below
its own; a reader reads no farther than the lowest key that is held.
"""

from __future__ import annotations

from django.db import connection

_SEQUENCE = "eventlog_event_id_seq"
_LAST = f"SELECT CASE WHEN is_called THEN last_value ELSE last_value - 1 END FROM {_SEQUENCE}"
# The upper bits of the locks' keys. `DatabaseLock` has other keys, which are all below.
_SHIFT = 40
_KEYS = 0x5EE7 << _SHIFT
# An advisory lock on a number is the halves of the number in two columns.
_HELD = """
FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 1
 AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
 AND (classid::bigint << 32) + objid::bigint BETWEEN %s AND %s
"""
_RANGE = (_KEYS, _KEYS + (1 << _SHIFT) - 1)


def begin_recording() -> None:
    """Have readers wait for the events of this transaction, which must be open.

    One lock is enough for a transaction, and many would fill PostgreSQL's table of locks.
    """
    if connection.vendor != "postgresql":
        return
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT pg_advisory_xact_lock_shared(%s + ({_LAST}))"
            f" WHERE NOT EXISTS (SELECT 1 {_HELD} AND pid = pg_backend_pid())",
            [_KEYS, *_RANGE],
        )


def last_certain_id() -> int:
    """Return the number up to which all events are there for good: none will appear before it.

    0 if there are no events. SQLite has one writer at a time, so there all events are certain.
    """
    with connection.cursor() as cursor:
        if connection.vendor != "postgresql":
            cursor.execute("SELECT seq FROM sqlite_sequence WHERE name = 'eventlog_event'")
            row = cursor.fetchone()
            return int(row[0]) if row else 0
        # In this order: a transaction that begins between both statements gets a higher number.
        cursor.execute(_LAST)
        (last,) = cursor.fetchone()
        cursor.execute(f"SELECT min((classid::bigint << 32) + objid::bigint) {_HELD}", _RANGE)
        (lowest,) = cursor.fetchone()
    return int(last) if lowest is None else min(int(last), int(lowest) - _KEYS)


def last_id() -> int:
    """Return the highest number that was given, even if its event is not certain."""
    if connection.vendor != "postgresql":
        return last_certain_id()
    with connection.cursor() as cursor:
        cursor.execute(_LAST)
        return int(cursor.fetchone()[0])
