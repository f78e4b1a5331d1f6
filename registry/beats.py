"""Heartbeats: parsing, recording and responses.

A heartbeat without a status sets a stopped VM to running; a paused VM stays paused. The DRF views
and the fast path record heartbeats with the same function, each in a transaction of its own, so
that both behave alike.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import orjson
from django.db import connection

from reef_site.common import clock
from reef_site.common.errors import BadInput
from registry import liveness
from registry.models import VM, Gap, Status
from registry.sql import Stamp, look, members, moment, stamp
from vmtree.models import CompactEncoder

MOST_IDS = 10_000
# A heartbeat that was sent at most this much before the last one, by the VM's own clock, was
# delayed on its way; if it is earlier by more, the clock was set back.
OUT_OF_ORDER = timedelta(minutes=1)
# Two machines with the same identity alternate within this time; a VM that moved does not return
# this soon.
TAKES_TURNS = timedelta(minutes=5)
_COUNT_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Beat:
    """One heartbeat. Fields that are None were absent and stay unchanged."""

    vm_id: str
    at: datetime | None = None
    status: str | None = None
    services: list[Any] | None = None
    vitals: dict[str, Any] | None = None

    @property
    def is_plain(self) -> bool:
        """Return whether it carries nothing but the VM's id."""
        said = (self.at, self.status, self.services, self.vitals)
        return all(each is None for each in said)


@dataclass(slots=True)
class Outcome:
    """The result of recording heartbeats: when each VM was last seen, and which changed."""

    seen: dict[str, Stamp] = field(default_factory=dict)
    changed: set[str] = field(default_factory=set)
    # VMs that reported another DNA than the registered one.
    strangers: set[str] = field(default_factory=set)


# -- parsing -----------------------------------------------------------------------------------


def single(vm_id: str, body: bytes) -> Beat:
    """Parse the heartbeat of one VM. A body that is not a JSON object is ignored, as always."""
    try:
        said = orjson.loads(body) if body else None
    except orjson.JSONDecodeError:
        said = None
    return _beat(vm_id, said, "") if isinstance(said, dict) and said else Beat(vm_id)


def bulk(body: object) -> list[Beat]:
    """Parse `{"ids": [text…], "beats": [{"id": text, …}…]}`. Raises BadInput."""
    if not isinstance(body, dict) or not body.keys() & {"ids", "beats"}:
        raise BadInput("ids is required", "ids")
    ids, told = body.get("ids") or [], body.get("beats") or []
    for name, value in (("ids", ids), ("beats", told)):
        if not isinstance(value, list):
            raise BadInput(f"{name}: must be a list", name)
    if len(ids) + len(told) > MOST_IDS:
        raise BadInput(f"ids: at most {MOST_IDS} in one request", "ids")
    if not all(type(each) is str for each in ids):
        raise BadInput("ids: must be a list of text", "ids")
    try:
        "".join(ids).encode()
    except UnicodeEncodeError:
        raise BadInput("ids: has characters that are no text", "ids") from None
    beats = {vm_id: Beat(vm_id) for vm_id in ids}
    for number, each in enumerate(told):
        where = f"beats[{number}]."
        if not isinstance(each, dict) or not isinstance(each.get("id"), str):
            raise BadInput(f"{where}id is required", "beats")
        beats[each["id"]] = _beat(each["id"], each, where)
    return list(beats.values())


def of(vm_id: str, beat: Beat) -> Beat:
    """Return the heartbeat with this VM id."""
    return beat if vm_id == beat.vm_id else dataclasses.replace(beat, vm_id=vm_id)


def _beat(vm_id: str, said: Mapping[str, Any], where: str) -> Beat:
    status, services, at = said.get("status"), said.get("services"), said.get("at")
    if status is not None and status not in Status.values:
        valid = ", ".join(Status.values)
        raise BadInput(f"{where}status: must be one of {valid}", "status")
    if services is not None and not isinstance(services, list):
        raise BadInput(f"{where}services: must be a list", "services")
    if at is not None and not isinstance(at, str):
        raise BadInput(f"{where}at: must be a time", "at")
    return Beat(
        vm_id,
        clock.parse_timestamp(at, f"{where}at") if at else None,
        status,
        services,
        _vitals(said, where) or None,
    )


def _vitals(said: Mapping[str, Any], where: str) -> dict[str, Any]:
    vitals: dict[str, Any] = {}
    for name in ("load", "disk"):
        value = said.get(name)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise BadInput(f"{where}{name}: must be a number", name)
        if not math.isfinite(value) or not 0 <= value < 1e12:
            raise BadInput(f"{where}{name}: must be a number from 0 on", name)
        vitals[name] = value
    vitals |= _machine(said, where)
    digest = said.get("reefConfigDigest")
    if digest is not None:
        if not isinstance(digest, str) or not digest.isalnum() or len(digest) > 128:
            raise BadInput(f"{where}reefConfigDigest: must be a digest in hex", "reefConfigDigest")
        vitals["reefConfigDigest"] = digest
    return vitals


def _machine(said: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Parse the clock skew and the id of the machine that the VM runs on."""
    facts: dict[str, Any] = {}
    skew, machine = said.get("clockSkewSeconds"), said.get("machine")
    if skew is not None:
        if isinstance(skew, bool) or not isinstance(skew, int | float) or not abs(skew) < 1e11:
            raise BadInput(f"{where}clockSkewSeconds: must be a number", "clockSkewSeconds")
        facts["clockSkewSeconds"] = round(float(skew), 1)
    if machine is not None:
        if not isinstance(machine, str) or not machine.isalnum() or len(machine) > 64:
            raise BadInput(f"{where}machine: must be up to 64 letters and digits", "machine")
        facts["machine"] = machine
    return facts


def digest_of(dna: Mapping[str, Any]) -> str:
    """Return the SHA-256 of the DNA, as a heartbeat may report it."""
    lists = {key: dna.get(key, []) for key in ("organs", "capabilities")}
    text = json.dumps(lists, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


# -- writing -----------------------------------------------------------------------------------


def record(beats: Sequence[Beat], now: datetime, interval: int) -> Outcome:
    """Record heartbeats inside the caller's transaction.

    An older heartbeat never overwrites a newer one, and none lies in the future. VMs that are
    missing in `seen` of the result are not registered.
    """
    done = Outcome()
    known = _known([beat.vm_id for beat in beats])
    at = stamp(now)
    done.seen = {vm_id: seen for vm_id, (_, seen, _) in known.items()}
    plain = [beat.vm_id for beat in beats if beat.is_plain and beat.vm_id in known]
    _write_plain(plain, now, interval)
    for vm_id in plain:
        done.seen[vm_id] = max(done.seen[vm_id], at)
        if known[vm_id][0] == Status.STOPPED:
            done.changed.add(vm_id)
    told = [beat for beat in beats if not beat.is_plain and beat.vm_id in known]
    if told:
        _write_told(told, now, interval, done)
    _write_gaps(known, done)
    return done


def _known(ids: list[str]) -> dict[str, tuple[str, Stamp, Stamp]]:
    """Return status, last heartbeat and first deadline of the registered ids; PostgreSQL locks the
    rows.
    """
    inside, parameter = members(ids)
    lock = " ORDER BY id FOR UPDATE" if connection.vendor == "postgresql" else ""
    columns = "id, status, last_seen, late_after"
    rows = look(columns, f"FROM registry_vm WHERE id IN {inside}{lock}", [parameter])
    return {vm_id: (status, seen, late) for vm_id, status, seen, late in rows}


def _write_plain(ids: list[str], now: datetime, interval: int) -> None:
    """Record heartbeats without data, with one statement."""
    if not ids:
        return
    inside, parameter = members(ids)
    late, silent = liveness.deadlines(now, interval)
    # A paused VM stays paused, without deadlines; all others are running again.
    awake = "CASE WHEN status = 'paused' THEN NULL ELSE %s END"
    sql = (
        f"UPDATE registry_vm SET last_seen = %s, late_after = {awake}, silent_after = {awake},"  # noqa: S608
        " interval_ms = %s, status = CASE status WHEN 'paused' THEN status ELSE 'running' END"
        f" WHERE id IN {inside} AND last_seen <= %s"
    )
    values = [stamp(now), stamp(late), stamp(silent), interval, parameter, stamp(now)]
    with connection.cursor() as cursor:
        cursor.execute(sql, values)


def _write_told(beats: list[Beat], now: datetime, interval: int, done: Outcome) -> None:
    """Record heartbeats with data or a send time: one statement, many rows."""
    vms = VM.objects.in_bulk([beat.vm_id for beat in beats])
    rows = []
    for beat in beats:
        vm = vms[beat.vm_id]
        if _apply(beat, vm, now, interval, done):
            rows.append(_signs_of(vm))
    if rows:
        with connection.cursor() as cursor:
            cursor.executemany(_WRITE_SIGNS, rows)


_WRITE_SIGNS = """UPDATE registry_vm SET last_seen = %s, late_after = %s, silent_after = %s,
    interval_ms = %s, status = %s, services = %s, vitals = %s WHERE id = %s AND last_seen <= %s"""


def _apply(beat: Beat, vm: VM, now: datetime, interval: int, done: Outcome) -> bool:
    """Apply a heartbeat to the row in memory; return False if a newer one is known.

    The time of arrival counts, because the VM's clock may be wrong.
    """
    if now < vm.last_seen or _is_out_of_order(beat, vm):
        return False
    at = now
    asleep = vm.status == Status.PAUSED
    status = beat.status or (Status.PAUSED if asleep else Status.RUNNING)
    services = vm.services
    changed = vm.status != status
    vm.interval_ms = interval
    vm.seen(at, status=status)
    if beat.services is not None:
        changed |= beat.services != services
        vm.services = beat.services
    told_vitals = {**_clock_of(beat, now), **(beat.vitals or {})}
    if told_vitals:
        twin = _twin_of(vm.vitals, told_vitals.get("machine"), now, interval)
        vm.vitals = {**vm.vitals, **told_vitals, **twin}
        told = told_vitals.get("reefConfigDigest")
        if told and told.lower() != digest_of(vm.reef_config):
            done.strangers.add(vm.pk)
    if changed:
        done.changed.add(vm.pk)
    done.seen[vm.pk] = stamp(vm.last_seen)
    return True


def _is_out_of_order(beat: Beat, vm: VM) -> bool:
    """Return whether the VM sent a later heartbeat before, by its own clock."""
    last = vm.vitals.get("saidAt")
    if beat.at is None or not isinstance(last, str):
        return False
    behind = clock.parse_timestamp(last, "saidAt") - beat.at
    return timedelta(0) < behind < OUT_OF_ORDER


def _clock_of(beat: Beat, now: datetime) -> dict[str, Any]:
    """Return the send time and the resulting clock skew for `vitals`."""
    if beat.at is None:
        return {}
    skew = round((beat.at - now).total_seconds(), 1)
    return {"saidAt": clock.format_timestamp(beat.at), "clockSkewSeconds": skew}


def _twin_of(known: dict[str, Any], machine: str | None, now: datetime, interval: int) -> Any:
    """Return `vitals` entries when another machine uses the identity, and when two alternate."""
    old = known.get("machine")
    if machine is None or old is None or machine == old:
        return {}
    found = {"machineBefore": old, "machineSince": clock.format_timestamp(now)}
    since = known.get("machineSince")
    if machine == known.get("machineBefore") and isinstance(since, str):
        soon = max(TAKES_TURNS, 3 * timedelta(milliseconds=interval))
        if now - clock.parse_timestamp(since, "machineSince") < soon:
            found["twinSeenAt"] = clock.format_timestamp(now)
    return found


def _signs_of(vm: VM) -> list[Any]:
    """Return the parameters of `_WRITE_SIGNS`."""
    seen = stamp(vm.last_seen)
    late = stamp(vm.late_after) if vm.late_after else None
    silent = stamp(vm.silent_after) if vm.silent_after else None
    said = [
        connection.ops.adapt_json_value(each, CompactEncoder) for each in (vm.services, vm.vitals)
    ]
    return [seen, late, silent, vm.interval_ms, vm.status, *said, vm.pk, seen]


def _write_gaps(known: dict[str, tuple[str, Stamp, Stamp]], done: Outcome) -> None:
    """Record a gap for each VM that was late, or would have been if it was running."""
    gaps = []
    for vm_id, (status, old, late_after) in known.items():
        new = done.seen[vm_id]
        if late_after is None:
            limit = liveness.deadlines(moment(old), 0)[0] if new > old else None
            overdue = limit is not None and stamp(limit) <= new
        else:
            overdue = late_after <= new
        if overdue:
            done.changed.add(vm_id)
            gaps.append((vm_id, old, new, status))
    if gaps:
        sql = (
            f"INSERT INTO {Gap._meta.db_table} (vm_id, began_at, ended_at, status)"  # noqa: S608
            " VALUES (%s, %s, %s, %s)"
        )
        with connection.cursor() as cursor:
            cursor.executemany(sql, gaps)


# -- responses ---------------------------------------------------------------------------------


class Fleet:
    """The number of registered VMs, counted again every ten seconds."""

    def __init__(self) -> None:
        self._count = 0
        self._counted = -math.inf

    def interval_ms(self) -> int:
        """Return the heartbeat interval for VMs of this fleet."""
        clock = time.monotonic()
        if clock - self._counted > _COUNT_SECONDS:
            self._count, self._counted = VM.objects.count(), clock
        return liveness.interval_ms(self._count)

    def forget(self) -> None:
        """Count again next time."""
        self._counted = -math.inf


fleet = Fleet()


def wire_date(value: Stamp) -> str:
    """Return a time from the database in the wire format. Does not accept None."""
    if isinstance(value, str):
        return f"{value[:10]}T{value[11:19]}.{value[20:23] or '000'}Z"
    return clock.format_timestamp(value)


def single_answer(vm_id: str, done: Outcome, interval: int) -> dict[str, Any]:
    """Build the response to one heartbeat; the order of keys is part of the contract."""
    answer = {
        "id": vm_id,
        "lastSeen": wire_date(done.seen[vm_id]),
        "nextBeatInMs": liveness.next_beat_ms(interval),
    }
    if vm_id in done.strangers:
        # The VM should register again with its present DNA.
        answer["reefConfigDiffers"] = True
    return answer


def bulk_answer(
    beats: Sequence[Beat], done: Outcome, now: datetime, interval: int
) -> dict[str, Any]:
    """Build the response to many heartbeats: count, unregistered ids, next interval."""
    unknown = [beat.vm_id for beat in beats if beat.vm_id not in done.seen]
    answer: dict[str, Any] = {
        "count": len(beats) - len(unknown),
        "unknown": unknown,
        "lastSeen": clock.format_timestamp(now),
        "nextBeatInMs": liveness.next_beat_ms(interval),
    }
    if done.strangers:
        answer["reefConfigDiffers"] = sorted(done.strangers)
    return answer
