"""Raw SQL of the registry: heartbeats and the fast path, which are too frequent for QuerySets."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import orjson
from django.db import connection
from django.db.models.expressions import RawSQL

from reef_site.common import clock
from reef_site.common.queries import (
    DriverTime,
    fetch_listed,
    fetch_prepared,
    fetch_rows,
    in_list,
    to_driver_time,
)
from reef_site.common.text import to_storable
from registry.models import LINKS, VM, Gap, Status
from vmtree.models import CompactEncoder
from vmtree.queries import recursion


def from_driver_time(value: DriverTime) -> datetime:
    """Convert a time from this database's driver."""
    if isinstance(value, str):
        return clock.parse_iso(value)
    found: datetime = value
    return found


# -- heartbeats ----------------------------------------------------------------------------------


def lock_vms(ids: list[str]) -> dict[str, tuple[str, DriverTime, DriverTime]]:
    """Map the registered ids to (status, last heartbeat, first deadline or None).

    PostgreSQL locks the rows; SQLite has a single writer anyway.
    """
    inside, parameter = in_list(ids)
    lock = " ORDER BY id FOR UPDATE" if connection.vendor == "postgresql" else ""
    columns = "id, status, last_seen, late_after"
    rows = fetch_rows(columns, f"FROM registry_vm WHERE id IN {inside}{lock}", [parameter])
    return {vm_id: (status, seen, late) for vm_id, status, seen, late in rows}


def record_empty_heartbeats(
    ids: list[str], now: datetime, late_after: datetime, silent_after: datetime, interval: int
) -> None:
    """Record heartbeats without data, with one statement. `interval` is in milliseconds."""
    inside, parameter = in_list(ids)
    # A paused VM stays paused, without deadlines; all others are running again.
    running = "CASE WHEN status = 'paused' THEN NULL ELSE %s END"
    sql = (
        f"UPDATE registry_vm SET last_seen = %s, late_after = {running}, silent_after = {running},"
        " interval_ms = %s, status = CASE status WHEN 'paused' THEN status ELSE 'running' END"
        f" WHERE id IN {inside} AND last_seen <= %s"
    )
    at = to_driver_time(now)
    deadlines = (to_driver_time(late_after), to_driver_time(silent_after))
    with connection.cursor() as cursor:
        cursor.execute(sql, [at, *deadlines, interval, parameter, at])


_ORDINARY = """status = 'running' AND late_after > {at} AND last_seen <= {at}
    AND interval_ms = {interval}"""
_RECORD_ORDINARY = f"""UPDATE registry_vm
    SET last_seen = :at, late_after = :late, silent_after = :silent
    WHERE id IN (SELECT value FROM json_each(:ids))
    AND {_ORDINARY.format(at=":at", interval=":interval")}"""
# Locked in one order, so that two edges do not wait for each other.
_RECORD_ORDINARY_LOCKED = f"""WITH mine AS MATERIALIZED (
        SELECT id FROM registry_vm WHERE id IN (SELECT unnest(%(ids)s::text[]))
        AND {_ORDINARY.format(at="%(at)s", interval="%(interval)s")} ORDER BY id FOR UPDATE)
    UPDATE registry_vm v SET last_seen = %(at)s, late_after = %(late)s, silent_after = %(silent)s
    FROM mine WHERE v.id = mine.id RETURNING v.id"""


def record_ordinary_heartbeats(
    ids: Collection[str], now: datetime, late_after: datetime, silent_after: datetime, interval: int
) -> set[str]:
    """Record heartbeats without data of VMs for which they change nothing but times.

    Return these VMs: registered, running, not late, and with this interval. This needs no look at
    the rows before, and no cursor of Django's.
    """
    deadlines = {"late": to_driver_time(late_after), "silent": to_driver_time(silent_after)}
    values = {"at": to_driver_time(now), **deadlines, "interval": interval}
    if connection.vendor == "postgresql":
        stored = [to_storable(each) for each in ids]
        rows = fetch_prepared(_RECORD_ORDINARY_LOCKED, {**values, "ids": stored})
        return {vm_id for (vm_id,) in rows}
    values["ids"] = orjson.dumps(list(ids)).decode()
    connection.ensure_connection()
    with connection.wrap_database_errors:
        count = connection.connection.execute(_RECORD_ORDINARY, values).rowcount
        if count in (0, len(ids)):
            return set(ids) if count else set()
        # To fetch rows takes longer than the statement. These are the same ones once more.
        rows = connection.connection.execute(f"{_RECORD_ORDINARY} RETURNING id", values)
        return {vm_id for (vm_id,) in rows.fetchall()}


def stored_reports(ids: list[str]) -> dict[str, Sequence[str]]:
    """Map these ids to services, vitals and DNA as JSON texts."""
    inside, parameter = in_list(ids)
    columns = ("services", "vitals", "reef_config")
    if connection.vendor == "postgresql":
        columns = ("services::text", "vitals::text", "reef_config::text")
    rest = f"FROM registry_vm WHERE id IN {inside}"
    rows = fetch_rows(f"id, {', '.join(columns)}", rest, [parameter])
    return {vm_id: texts for vm_id, *texts in rows}


class Report(NamedTuple):
    """The new values of a VM after a heartbeat with data; `services` is None to keep them."""

    vm_id: str
    status: str
    vitals: dict[str, Any]
    services: list[Any] | None


_RECORD = """UPDATE registry_vm SET last_seen = %s, late_after = %s, silent_after = %s,
    interval_ms = %s, status = %s, vitals = %s{services} WHERE id = %s AND last_seen <= %s"""


def record_reports(
    reports: Iterable[Report],
    now: datetime,
    late_after: datetime,
    silent_after: datetime,
    interval: int,
) -> None:
    """Write what heartbeats reported, unless a newer one was recorded meanwhile."""
    at = to_driver_time(now)
    times = {False: (at, None, None)}
    times[True] = (at, to_driver_time(late_after), to_driver_time(silent_after))
    kept, changed = [], []
    for each in reports:
        values = [*times[each.status == Status.RUNNING], interval, each.status]
        values.append(_to_driver_json(each.vitals))
        if each.services is None:
            kept.append([*values, each.vm_id, at])
        else:
            changed.append([*values, _to_driver_json(each.services), each.vm_id, at])
    with connection.cursor() as cursor:
        if kept:
            cursor.executemany(_RECORD.format(services=""), kept)
        if changed:
            cursor.executemany(_RECORD.format(services=", services = %s"), changed)


def _to_driver_json(value: object) -> Any:
    """Convert what orjson has read for this database's driver; as text this takes less time."""
    if connection.vendor == "postgresql":
        return connection.ops.adapt_json_value(value, CompactEncoder)
    return orjson.dumps(value).decode()


def add_gaps(gaps: Iterable[tuple[str, DriverTime, DriverTime, str]]) -> None:
    """Add gaps between heartbeats: (VM id, begin, end, status before)."""
    sql = (
        f"INSERT INTO {Gap._meta.db_table} (vm_id, began_at, ended_at, status)"
        " VALUES (%s, %s, %s, %s)"
    )
    with connection.cursor() as cursor:
        cursor.executemany(sql, list(gaps))


# -- registrations -------------------------------------------------------------------------------

_REGISTERED = """FROM (SELECT 0 AS is_parent, id FROM registry_vm WHERE id IN {listed}
    UNION ALL SELECT DISTINCT 1, parent_vm_id FROM registry_vm WHERE parent_vm_id IN {listed}) v"""


def registered_among(ids: Collection[str]) -> tuple[set[str], set[str]]:
    """Return which of these VMs are registered, and which are the parents of registered ones."""
    found: tuple[set[str], set[str]] = (set(), set())
    for is_parent, vm_id in fetch_listed("v.is_parent, v.id", _REGISTERED, ids):
        found[is_parent].add(vm_id)
    return found


# -- reading VMs ---------------------------------------------------------------------------------


def subtree(vm_id: str) -> list[VM]:
    """Return the VM and its descendants by time of registration; empty if it is not registered."""
    sql = f"{recursion.below(LINKS)} SELECT v.* FROM line JOIN registry_vm v ON v.id = line.key"
    return list(VM.objects.raw(f"{sql} ORDER BY v.registered_at, v.id", [vm_id]))


def ids_with_dna(kind: str, name: str) -> RawSQL:
    """Return an SQLite expression: the ids of VMs whose DNA has this name.

    `kind` is `organs` or `capabilities`.
    """
    rows = f"registry_vm v, json_each(v.reef_config, '$.{kind}') gene"
    return RawSQL(f"SELECT v.id FROM {rows} WHERE gene.value = %s", [name])  # noqa: S611


# -- SQLite's write-ahead log --------------------------------------------------------------------


def checkpoint() -> int:
    """Write back what no reader needs any more; return the length of the log in pages."""
    with connection.cursor() as cursor:
        cursor.execute("PRAGMA wal_checkpoint(PASSIVE)")
        _, pages, _ = cursor.fetchone()
    return int(pages)


def restart_log(busy_timeout_ms: int, patience: float) -> None:
    """Restart the log from its beginning, waiting for writers and readers only so long."""
    with connection.cursor() as cursor:
        cursor.execute(f"PRAGMA busy_timeout = {busy_timeout_ms:d}")
        # In the write queue, because busy writers would always be faster.
        wrapper: Any = connection
        with wrapper.next_in_turn(time.monotonic() + patience):
            cursor.execute("PRAGMA wal_checkpoint(RESTART)")
            cursor.fetchone()
