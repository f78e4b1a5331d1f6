"""Heartbeats: parsing, recording and responses.

A heartbeat without a status sets a stopped VM to running; a paused VM stays paused. The DRF views
and the fast path record heartbeats with the same function, each in a transaction of its own, so
that both behave alike.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import orjson

from reef_site.common import clock
from reef_site.common.errors import BadInput
from reef_site.common.queries import DriverTime, to_driver_time
from registry import liveness, queries
from registry.models import VM, Status
from registry.queries import from_driver_time

MAX_IDS = 10_000
# A heartbeat that was sent at most this much before the last one, by the VM's own clock, was
# delayed on its way; if it is earlier by more, the clock was set back.
OUT_OF_ORDER_WINDOW = timedelta(minutes=1)
# Two machines with the same identity alternate within this time; a VM that moved does not return
# this soon.
ALTERNATION_WINDOW = timedelta(minutes=5)
_COUNT_SECONDS = 10.0


class Heartbeat(NamedTuple):
    """One heartbeat. Fields that are None were absent and stay unchanged."""

    vm_id: str
    at: datetime | None = None
    status: str | None = None
    services: list[Any] | None = None
    vitals: dict[str, Any] | None = None

    @property
    def is_empty(self) -> bool:
        """Return whether it carries nothing but the VM's id."""
        return self[1:] == _NO_FIELDS


_NO_FIELDS = (None, None, None, None)


@dataclass(slots=True)
class Outcome:
    """The result of recording heartbeats: when each VM was last seen, and which changed."""

    seen: dict[str, DriverTime] = field(default_factory=dict)
    changed: set[str] = field(default_factory=set)
    # VMs that reported another DNA than the registered one.
    dna_mismatches: set[str] = field(default_factory=set)


# -- parsing -----------------------------------------------------------------------------------


def parse_one(vm_id: str, body: bytes) -> Heartbeat:
    """Parse the heartbeat of one VM. A body that is not a JSON object is ignored, as always."""
    try:
        data = orjson.loads(body) if body else None
    except orjson.JSONDecodeError:
        data = None
    return _parse(vm_id, data, "") if isinstance(data, dict) and data else Heartbeat(vm_id)


def parse_many(body: object) -> list[Heartbeat]:
    """Parse `{"ids": [text…], "beats": [{"id": text, …}…]}`. Raises BadInput."""
    if not isinstance(body, dict) or not body.keys() & {"ids", "beats"}:
        raise BadInput("ids is required", "ids")
    ids, entries = body.get("ids") or [], body.get("beats") or []
    for name, value in (("ids", ids), ("beats", entries)):
        if not isinstance(value, list):
            raise BadInput(f"{name}: must be a list", name)
    if len(ids) + len(entries) > MAX_IDS:
        raise BadInput(f"ids: at most {MAX_IDS} in one request", "ids")
    if not all(type(each) is str for each in ids):
        raise BadInput("ids: must be a list of text", "ids")
    try:
        "".join(ids).encode()
    except UnicodeEncodeError:
        raise BadInput("ids: has characters that are no text", "ids") from None
    beats = {vm_id: Heartbeat(vm_id) for vm_id in ids}
    for number, each in enumerate(entries):
        where = f"beats[{number}]."
        if not isinstance(each, dict) or not isinstance(each.get("id"), str):
            raise BadInput(f"{where}id is required", "beats")
        beats[each["id"]] = _parse(each["id"], each, where)
    return list(beats.values())


def with_vm_id(vm_id: str, beat: Heartbeat) -> Heartbeat:
    """Return the heartbeat with this VM id."""
    return beat if vm_id == beat.vm_id else beat._replace(vm_id=vm_id)


def _parse(vm_id: str, data: Mapping[str, Any], where: str) -> Heartbeat:
    status, services, at = data.get("status"), data.get("services"), data.get("at")
    if status is not None and status not in Status.values:
        valid = ", ".join(Status.values)
        raise BadInput(f"{where}status: must be one of {valid}", "status")
    if services is not None and not isinstance(services, list):
        raise BadInput(f"{where}services: must be a list", "services")
    if at is not None and not isinstance(at, str):
        raise BadInput(f"{where}at: must be a time", "at")
    return Heartbeat(
        vm_id,
        clock.parse_timestamp(at, f"{where}at") if at else None,
        status,
        services,
        _vitals(data, where) or None,
    )


def _vitals(data: Mapping[str, Any], where: str) -> dict[str, Any]:
    vitals: dict[str, Any] = {}
    for name in ("load", "disk"):
        value = data.get(name)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise BadInput(f"{where}{name}: must be a number", name)
        if not math.isfinite(value) or not 0 <= value < 1e12:
            raise BadInput(f"{where}{name}: must be a number from 0 on", name)
        vitals[name] = value
    vitals |= _machine_facts(data, where)
    digest = data.get("reefConfigDigest")
    if digest is not None:
        if not isinstance(digest, str) or not digest.isalnum() or len(digest) > 128:
            raise BadInput(f"{where}reefConfigDigest: must be a digest in hex", "reefConfigDigest")
        vitals["reefConfigDigest"] = digest
    return vitals


def _machine_facts(data: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Parse the clock skew and the id of the machine that the VM runs on."""
    facts: dict[str, Any] = {}
    skew, machine = data.get("clockSkewSeconds"), data.get("machine")
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


def record(beats: Sequence[Heartbeat], now: datetime, interval: int) -> Outcome:
    """Record heartbeats inside the caller's transaction.

    An older heartbeat never overwrites a newer one, and none lies in the future. VMs that are
    missing in `seen` of the result are not registered.
    """
    outcome = Outcome()
    known = queries.lock_vms([beat.vm_id for beat in beats])
    at = to_driver_time(now)
    outcome.seen = {vm_id: seen for vm_id, (_, seen, _) in known.items()}
    empty = [beat.vm_id for beat in beats if beat.is_empty and beat.vm_id in known]
    _write_empty(empty, now, interval)
    for vm_id in empty:
        outcome.seen[vm_id] = max(outcome.seen[vm_id], at)
        if known[vm_id][0] == Status.STOPPED:
            outcome.changed.add(vm_id)
    if len(empty) < len(beats):
        detailed = [beat for beat in beats if not beat.is_empty and beat.vm_id in known]
        _write_detailed(detailed, now, interval, outcome)
    _write_gaps(known, outcome)
    return outcome


def _write_empty(ids: list[str], now: datetime, interval: int) -> None:
    """Record heartbeats without data, with one statement."""
    if not ids:
        return
    late, silent = liveness.deadlines(now, interval)
    queries.record_empty_heartbeats(ids, now, late, silent, interval)


def _write_detailed(beats: list[Heartbeat], now: datetime, interval: int, outcome: Outcome) -> None:
    """Record heartbeats with data or a send time: one statement, many rows."""
    vms = VM.objects.in_bulk([beat.vm_id for beat in beats])
    changed = [
        vms[beat.vm_id] for beat in beats if _apply(beat, vms[beat.vm_id], now, interval, outcome)
    ]
    if changed:
        queries.record_heartbeats(changed)


def _apply(beat: Heartbeat, vm: VM, now: datetime, interval: int, outcome: Outcome) -> bool:
    """Apply a heartbeat to the row in memory; return False if a newer one is known.

    The time of arrival counts, because the VM's clock may be wrong.
    """
    if now < vm.last_seen or _is_out_of_order(beat, vm):
        return False
    at = now
    was_paused = vm.status == Status.PAUSED
    status = beat.status or (Status.PAUSED if was_paused else Status.RUNNING)
    services = vm.services
    changed = vm.status != status
    vm.interval_ms = interval
    vm.seen(at, status=status)
    if beat.services is not None:
        changed |= beat.services != services
        vm.services = beat.services
    reported = {**_clock_facts(beat, now), **(beat.vitals or {})}
    if reported:
        duplicate = _duplicate_facts(vm.vitals, reported.get("machine"), now, interval)
        vm.vitals = {**vm.vitals, **reported, **duplicate}
        digest = reported.get("reefConfigDigest")
        if digest and digest.lower() != digest_of(vm.reef_config):
            outcome.dna_mismatches.add(vm.pk)
    if changed:
        outcome.changed.add(vm.pk)
    outcome.seen[vm.pk] = to_driver_time(vm.last_seen)
    return True


def _is_out_of_order(beat: Heartbeat, vm: VM) -> bool:
    """Return whether the VM sent a later heartbeat before, by its own clock."""
    last_sent = vm.vitals.get("saidAt")
    if beat.at is None or not isinstance(last_sent, str):
        return False
    behind = clock.parse_timestamp(last_sent, "saidAt") - beat.at
    return timedelta(0) < behind < OUT_OF_ORDER_WINDOW


def _clock_facts(beat: Heartbeat, now: datetime) -> dict[str, Any]:
    """Return the send time and the resulting clock skew for `vitals`."""
    if beat.at is None:
        return {}
    skew = round((beat.at - now).total_seconds(), 1)
    return {"saidAt": clock.format_timestamp(beat.at), "clockSkewSeconds": skew}


def _duplicate_facts(
    known: dict[str, Any], machine: str | None, now: datetime, interval: int
) -> Any:
    """Return `vitals` entries when another machine uses the identity, and when two alternate."""
    old = known.get("machine")
    if machine is None or old is None or machine == old:
        return {}
    found = {"machineBefore": old, "machineSince": clock.format_timestamp(now)}
    since = known.get("machineSince")
    if machine == known.get("machineBefore") and isinstance(since, str):
        soon = max(ALTERNATION_WINDOW, 3 * timedelta(milliseconds=interval))
        if now - clock.parse_timestamp(since, "machineSince") < soon:
            found["twinSeenAt"] = clock.format_timestamp(now)
    return found


def _write_gaps(known: dict[str, tuple[str, DriverTime, DriverTime]], outcome: Outcome) -> None:
    """Record a gap for each VM that was late, or would have been if it was running."""
    gaps = []
    for vm_id, (status, old, late_after) in known.items():
        new = outcome.seen[vm_id]
        if late_after is None:
            limit = liveness.deadlines(from_driver_time(old), 0)[0] if new > old else None
            overdue = limit is not None and to_driver_time(limit) <= new
        else:
            overdue = late_after <= new
        if overdue:
            outcome.changed.add(vm_id)
            gaps.append((vm_id, old, new, status))
    if gaps:
        queries.add_gaps(gaps)


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


def wire_date(value: DriverTime) -> str:
    """Return a time from the database in the wire format. Does not accept None."""
    if isinstance(value, str):
        return f"{value[:10]}T{value[11:19]}.{value[20:23] or '000'}Z"
    return clock.format_timestamp(value)


def response_for_one(vm_id: str, outcome: Outcome, interval: int) -> dict[str, Any]:
    """Build the response to one heartbeat; the order of keys is part of the contract."""
    response = {
        "id": vm_id,
        "lastSeen": wire_date(outcome.seen[vm_id]),
        "nextBeatInMs": liveness.next_heartbeat_ms(interval),
    }
    if vm_id in outcome.dna_mismatches:
        # The VM should register again with its present DNA.
        response["reefConfigDiffers"] = True
    return response


def response_for_many(
    beats: Sequence[Heartbeat], outcome: Outcome, now: datetime, interval: int
) -> dict[str, Any]:
    """Build the response to many heartbeats: count, unregistered ids, next interval."""
    unknown = [beat.vm_id for beat in beats if beat.vm_id not in outcome.seen]
    response: dict[str, Any] = {
        "count": len(beats) - len(unknown),
        "unknown": unknown,
        "lastSeen": clock.format_timestamp(now),
        "nextBeatInMs": liveness.next_heartbeat_ms(interval),
    }
    if outcome.dna_mismatches:
        response["reefConfigDiffers"] = sorted(outcome.dna_mismatches)
    return response
