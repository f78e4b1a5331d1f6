"""Raw SQL of the registry: heartbeats and the fast path, which are too frequent for QuerySets."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from django.db import connection
from django.db.models.expressions import RawSQL

from reef_site.common import clock
from reef_site.common.queries import DriverTime, fetch_rows, in_list, to_driver_time
from registry.models import LINKS, VM, Gap
from vmtree.models import CompactEncoder
from vmtree.queries import recursion

Row = Sequence[Any]


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


_RECORD = """UPDATE registry_vm SET last_seen = %s, late_after = %s, silent_after = %s,
    interval_ms = %s, status = %s, services = %s, vitals = %s WHERE id = %s AND last_seen <= %s"""


def record_heartbeats(vms: Iterable[VM]) -> None:
    """Write what heartbeats changed of these VMs, unless a newer one was recorded meanwhile."""
    with connection.cursor() as cursor:
        cursor.executemany(_RECORD, [_heartbeat_values(vm) for vm in vms])


def _heartbeat_values(vm: VM) -> list[Any]:
    """Return the parameters of `_RECORD`."""
    seen = to_driver_time(vm.last_seen)
    late = to_driver_time(vm.late_after) if vm.late_after else None
    silent = to_driver_time(vm.silent_after) if vm.silent_after else None
    json_values = [
        connection.ops.adapt_json_value(each, CompactEncoder) for each in (vm.services, vm.vitals)
    ]
    return [seen, late, silent, vm.interval_ms, vm.status, *json_values, vm.pk, seen]


def add_gaps(gaps: Iterable[tuple[str, DriverTime, DriverTime, str]]) -> None:
    """Add gaps between heartbeats: (VM id, begin, end, status before)."""
    sql = (
        f"INSERT INTO {Gap._meta.db_table} (vm_id, began_at, ended_at, status)"
        " VALUES (%s, %s, %s, %s)"
    )
    with connection.cursor() as cursor:
        cursor.executemany(sql, list(gaps))


# -- reading VMs ---------------------------------------------------------------------------------
# `columns` is a list in SQL; the table of VMs is `v`. Rows are in no order.


def rows_of_vms(columns: str, ids: Iterable[str]) -> list[Row]:
    """Return these columns of the VMs with these ids."""
    inside, parameter = in_list(ids)
    return fetch_rows(columns, f"FROM registry_vm v WHERE v.id IN {inside}", [parameter])


def rows_of_running(columns: str, role: str, silent_after: DriverTime | None) -> list[Row]:
    """Return these columns of running VMs of a role, which become silent after that time if any."""
    condition, values = "v.role = %s AND v.status = 'running'", [role]
    if silent_after is not None:
        condition, values = f"{condition} AND v.silent_after > %s", [role, silent_after]
    return fetch_rows(columns, f"FROM registry_vm v WHERE {condition}", values)


def rows_of_ancestors(columns: str, ids: Iterable[str]) -> list[Row]:
    """Return these columns of the VMs with these ids and of all their ancestors."""
    inside, parameter = in_list(ids)
    head = recursion.above(LINKS, start=f"id IN {inside}")
    return fetch_rows(columns, "FROM registry_vm v JOIN line ON line.key = v.id", [parameter], head)


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
