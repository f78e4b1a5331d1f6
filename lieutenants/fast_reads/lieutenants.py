"""One lieutenant, and the list of them: SQL for what `lieutenants_json` reads."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from datetime import datetime
from typing import Any

import orjson
from django.conf import settings
from django.db import connection

from bootloader.models import BootStep
from lieutenants.fast_reads import texts
from lieutenants.hosts import services as hosts
from lieutenants.models import Lieutenant, Process
from lieutenants.serializers import PUBLIC_COLUMNS, Details, with_details
from lieutenants.supervision import made_vms
from lieutenants.transcript import outputs
from reef_site.common import json_sql
from reef_site.common.fast_routes import KEY, FastRoute, flag, plain
from reef_site.common.json_columns import JsonColumns
from reef_site.common.json_format import dumps
from reef_site.common.json_sql import number_part, parameter, part
from reef_site.common.queries import to_driver_time
from vmtree.models import LINKS
from vmtree.queries import recursion

Json = dict[str, Any]
PATH = r"/lieutenant/lieutenants"
ACTIVE = "NOT (l.status = 'destroyed')"
_LIEUTENANTS = JsonColumns(Lieutenant)
_PUBLIC = JsonColumns(Lieutenant, only=PUBLIC_COLUMNS)
_STARTS = JsonColumns(Process, only=("id", *Process.STEP_FIELDS))
_STEPS = JsonColumns(BootStep)
_SUMS = ("input", "output", "cache_read", "cache_write", "cost")


def values(at: datetime) -> Json:
    """Return the parameters: which hosts respond, see `hosts.services.is_responding`."""
    given: Json = {"here": settings.DATA_FOLDER_ID}
    if connection.vendor == "sqlite":
        # PostgreSQL compares with its own clock, which all hosts share.
        given["silent_before"] = to_driver_time(at - hosts.SILENT_AFTER)
        given["wrong_after"] = to_driver_time(at + hosts.TOLERANCE)
    return given


def _last_heard() -> tuple[str, str]:
    """Return expressions for the limits between which a host that responds was heard."""
    if connection.vendor == "sqlite":
        return parameter("silent_before"), parameter("wrong_after")
    silent, wrong = hosts.SILENT_AFTER.total_seconds(), hosts.TOLERANCE.total_seconds()
    now = "clock_timestamp()"
    return f"{now} - interval '{silent} s'", f"{now} + interval '{wrong} s'"


def caller_reads(vm_id: str) -> str:
    """Return a condition: whether the caller, part 0 of the key, may read this transcript."""
    above = recursion.above(LINKS, start=f"vm_id = {vm_id}")
    return (
        f"({number_part(0)} IS NULL"
        f" OR EXISTS ({above} SELECT 1 FROM line WHERE key = {number_part(0)}))"
    )


def _is_silent() -> str:
    """Return a condition: whether the host of the lieutenant `l` does not respond."""
    folder = "FROM lieutenants_datafolder d WHERE d.id = l.data_folder"
    first, last = _last_heard()
    answers = f"EXISTS (SELECT 1 {folder} AND d.seen_at > {first} AND d.seen_at <= {last})"
    is_new = f"EXISTS (SELECT 1 {folder} AND d.seen_at IS NOT NULL)"
    return f"NOT ({answers} OR (l.data_folder = {parameter('here')} AND NOT {is_new}))"


def _one() -> str:
    chosen = f"l.name = {part(1)} AND {ACTIVE}"
    mine = f"SELECT l.id FROM lieutenants_lieutenant l WHERE {chosen} AND {caller_reads('l.id')}"
    return _facts("WITH", chosen, mine)


def _all() -> str:
    chosen = f"{ACTIVE} AND ({part(1)} IS NULL OR l.status = {part(1)})"
    everyone = dataclasses.replace(LINKS, living="")
    mine = (
        f"SELECT l.id FROM lieutenants_lieutenant l WHERE {chosen} AND {number_part(0)} IS NULL"
        " UNION ALL SELECT l.id FROM line JOIN vmtree_node n ON n.id = line.key"
        f" JOIN lieutenants_lieutenant l ON l.id = n.vm_id WHERE {chosen}"
    )
    return _facts(f"{recursion.below(everyone, start=f'id = {number_part(0)}')},", chosen, mine)


def _facts(head: str, chosen: str, own: str) -> str:
    """Return a subquery for the rows that `_details` reads, of the lieutenants `l` that are chosen.

    `own` selects those whose transcripts the caller may read; `head` begins the statement. It is
    null if a host does not respond.
    """
    mine = json_sql.shared_ids("own")
    rows = (
        f"SELECT {_LIEUTENANTS.select('l')} AS json FROM {mine.table} m"
        " JOIN lieutenants_lieutenant l ON l.id = m.id",
        f"SELECT {_PUBLIC.select('l')} AS json FROM lieutenants_lieutenant l WHERE {chosen}"
        f" AND l.id NOT IN (SELECT m.id FROM {mine.table} m)",
    )
    long_texts = (answers(mine.table), texts.running(mine.table, str(outputs.MAX_SHOWN)))
    is_long = f"{part(2)} IS NULL"
    silent = f"SELECT 1 FROM lieutenants_lieutenant l WHERE {chosen} AND {_is_silent()}"
    listed = json_sql.together(
        *map(json_sql.list_of, rows),
        *(
            f"CASE WHEN {is_long} THEN {json_sql.list_of(each)} ELSE '[]' END"
            for each in long_texts
        ),
        *(json_sql.list_of(each(mine.table)) for each in (_sums, _starts, _made)),
    )
    return (
        f"({head} own AS ({own}) SELECT CASE WHEN NOT EXISTS ({silent}) THEN {listed} END"
        f"{mine.source})"
    )


def answers(mine: str, ends: int = 0, is_short: str = "FALSE") -> str:
    """Return a query for excerpts of the newest answers, see `outputs.newest_answers`.

    They are `ends` characters long if the condition `is_short` holds.
    """
    finished = "lieutenants_answer b WHERE b.lieutenant_id = m.id AND NOT (b.outcome = 'open')"
    oldest = (
        f"(SELECT min(t.id) FROM (SELECT b.id FROM {finished}"
        f" ORDER BY b.id DESC LIMIT {outputs.MAX_CANDIDATES}) t)"
    )
    placed = (
        "SELECT a.id, row_number() OVER (PARTITION BY a.lieutenant_id ORDER BY a.id DESC) AS place"
        f" FROM {mine} m JOIN lieutenants_answer a ON a.lieutenant_id = m.id"
        f" WHERE NOT (a.outcome = 'open') AND a.id >= {oldest}"
    )
    most = (
        f"CASE WHEN {is_short} THEN {ends} WHEN p.place <= {outputs.LONG_ANSWERS}"
        f" THEN {outputs.MAX_SHOWN} ELSE {outputs.MAX_SHOWN_OLDER} END"
    )
    columns = json_sql.values("a.lieutenant_id", *texts.excerpt("a.text", most))
    return (
        f"SELECT {columns} AS json FROM ({placed}) p JOIN lieutenants_answer a ON a.id = p.id"
        " ORDER BY a.lieutenant_id, a.id"
    )


def sums_of(key: str) -> str:
    """Return an expression for a key and the sums of usage, for `sums_by_key`."""
    return json_sql.values(key, *(f"sum(u.{each})" for each in _SUMS), "count(*)")


def _sums(mine: str) -> str:
    """Return a query for usage, see `UsageQuerySet.sums_by_lieutenant`."""
    return (
        f"SELECT {sums_of('u.lieutenant_id')} AS json FROM {mine} m"
        " JOIN lieutenants_usage u ON u.lieutenant_id = m.id GROUP BY u.lieutenant_id"
    )


def _starts(mine: str) -> str:
    """Return a query for the newest process of each remote lieutenant."""
    newest = (
        "SELECT p.id FROM lieutenants_process p WHERE p.lieutenant_id = m.id"
        " ORDER BY p.started_at DESC, p.id DESC LIMIT 1"
    )
    return (
        f"SELECT {_STARTS.select('p')} AS json FROM {mine} m JOIN lieutenants_lieutenant l"
        " ON l.id = m.id AND NOT (l.transport = 'local')"
        f" JOIN lieutenants_process p ON p.id = ({newest})"
    )


def _made(mine: str) -> str:
    """Return a query for the steps in which VMs were made, see `made_vms.steps_of`."""
    return (
        f"SELECT {_STEPS.select('s', 'v.lieutenant_id')} AS json FROM {mine} m"
        " JOIN lieutenants_lieutenant l ON l.id = m.id AND NOT (l.transport = 'local')"
        " JOIN lieutenants_madevm v ON v.lieutenant_id = m.id"
        " JOIN bootloader_bootstep s ON s.provisioning_id = v.provisioning_id"
        " WHERE s.started_at IS NOT NULL ORDER BY s.provisioning_id, s.position"
    )


def _details(facts: list[list[Any]], *, brief: bool) -> list[Json]:
    """Return lieutenants as JSON from the rows of `_facts`."""
    mine, others, history, running, sums, starts, made = facts
    readable = [_LIEUTENANTS.read(each) for each in mine]
    steps: dict[str, list[Json]] = {}
    for each in made:
        step = made_vms.step_json(_STEPS.read(each))
        steps.setdefault(each[_STEPS.count], []).append(step)
    for process in map(_STARTS.read, starts):
        steps.setdefault(process.lieutenant_id, []).extend(process.start_steps())
    found = texts.excerpts(history)
    details = Details(
        readable={row.pk for row in readable},
        history={pk: outputs.without_blank(own) for pk, own in found.items()},
        running=texts.endings(running),
        sums=sums_by_key(sums),
        steps=steps,
    )
    rows = [*readable, *map(_PUBLIC.read, others)]
    rows.sort(key=lambda row: (row.created_at, row.pk), reverse=True)
    return with_details(rows, details, brief=brief)


def sums_by_key(rows: Iterable[list[Any]]) -> dict[Any, Json]:
    """Map keys to sums of usage as `UsageQuerySet` returns them."""
    names = (*(f"total_{each}" for each in _SUMS), "calls")
    return {key: dict(zip(names, sums, strict=True)) for key, *sums in rows}


def _finish_one(found: bytes, key: str) -> bytes | None:
    shown = _details(orjson.loads(found), brief=bool(orjson.loads(key)[2]))
    return dumps(shown[0]) if shown else None


def _finish_all(found: bytes, key: str) -> bytes:
    shown = _details(orjson.loads(found), brief=bool(orjson.loads(key)[2]))
    return dumps({"lieutenants": shown, "count": len(shown)})


ROUTES = {
    "lieutenants.one": FastRoute(
        rf"{PATH}/{KEY}/?",
        _one,
        finish=_finish_one,
        long_texts=True,
        query={"brief": flag},
        values=values,
        by_caller=True,
    ),
    "lieutenants.all": FastRoute(
        rf"{PATH}/?",
        _all,
        finish=_finish_all,
        large=True,
        query={"status": plain, "brief": flag},
        values=values,
        by_caller=True,
    ),
}
