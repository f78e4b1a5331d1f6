"""Heartbeats: recording and responses.

A heartbeat without a status sets a stopped VM to running; a paused VM stays paused. The DRF views
and the fast path record heartbeats with the same function, each in a transaction of its own, so
that both behave alike.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import orjson

from reef_site.common import clock
from reef_site.common.queries import DriverTime, to_driver_time
from registry import liveness, queries
from registry.heartbeat_bodies import Heartbeat
from registry.models import VM, Status
from registry.queries import from_driver_time

# A heartbeat that was sent at most this much before the last one, by the VM's own clock, was
# delayed on its way; if it is earlier by more, the clock was set back.
OUT_OF_ORDER_WINDOW = timedelta(minutes=1)
# Two machines with the same identity alternate within this time; a VM that moved does not return
# this soon.
ALTERNATION_WINDOW = timedelta(minutes=5)
_COUNT_SECONDS = 10.0
# Registered VMs by id: status, last heartbeat, and first deadline or None.
Locked = Mapping[str, tuple[str, DriverTime, DriverTime]]


@dataclass(slots=True)
class Outcome:
    """The result of recording heartbeats: when each VM was last seen, and which changed."""

    seen: dict[str, DriverTime] = field(default_factory=dict)
    changed: set[str] = field(default_factory=set)
    # VMs that reported another DNA than the registered one.
    dna_mismatches: set[str] = field(default_factory=set)


def digest_of(dna: Mapping[str, Any]) -> str:
    """Return the SHA-256 of the DNA, as a heartbeat may report it."""
    lists = {key: dna.get(key, []) for key in ("organs", "capabilities")}
    text = json.dumps(lists, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


@functools.lru_cache(maxsize=4096)
def _digest_of_text(dna: str) -> str:
    """Return the digest of a DNA in JSON. Cached: many VMs share theirs."""
    return digest_of(json.loads(dna))


# -- writing -----------------------------------------------------------------------------------


def record(beats: Sequence[Heartbeat], now: datetime, interval: int) -> Outcome:
    """Record heartbeats inside the caller's transaction.

    An older heartbeat never overwrites a newer one, and none lies in the future. VMs that are
    missing in `seen` of the result are not registered.
    """
    outcome, at = Outcome(), to_driver_time(now)
    ordinary = _write_ordinary(beats, now, interval)
    if ordinary:
        outcome.seen = dict.fromkeys(ordinary, at)
        beats = [beat for beat in beats if not (beat.is_empty and beat.vm_id in ordinary)]
        if not beats:
            return outcome
    known = queries.lock_vms([beat.vm_id for beat in beats])
    outcome.seen |= {vm_id: seen for vm_id, (_, seen, _) in known.items()}
    empty = [beat.vm_id for beat in beats if beat.is_empty and beat.vm_id in known]
    _write_empty(empty, now, interval)
    for vm_id in empty:
        outcome.seen[vm_id] = max(outcome.seen[vm_id], at)
        if known[vm_id][0] == Status.STOPPED:
            outcome.changed.add(vm_id)
    if len(empty) < len(beats):
        detailed = [beat for beat in beats if not beat.is_empty and beat.vm_id in known]
        _write_detailed(detailed, known, now, interval, outcome)
    _write_gaps(known, outcome)
    return outcome


def _write_ordinary(beats: Sequence[Heartbeat], now: datetime, interval: int) -> set[str]:
    """Record heartbeats without data that change only times; return their VMs."""
    ids = {beat.vm_id for beat in beats if beat.is_empty}
    if not ids:
        return ids
    late, silent = liveness.deadlines(now, interval)
    return queries.record_ordinary_heartbeats(ids, now, late, silent, interval)


def _write_empty(ids: list[str], now: datetime, interval: int) -> None:
    """Record heartbeats without data, with one statement."""
    if not ids:
        return
    late, silent = liveness.deadlines(now, interval)
    queries.record_empty_heartbeats(ids, now, late, silent, interval)


@dataclass(slots=True)
class _Reporting:
    """A VM while its heartbeats with data are applied. Services and DNA are JSON texts."""

    vm_id: str
    status: str
    last_seen: datetime
    vitals: dict[str, Any]
    services: str
    reef_config: str
    # The services that were reported.
    new_services: list[Any] | None = None


def _write_detailed(
    beats: list[Heartbeat], known: Locked, now: datetime, interval: int, outcome: Outcome
) -> None:
    """Record heartbeats with data or a send time: one statement, many rows."""
    stored = queries.stored_reports([beat.vm_id for beat in beats])
    vms = {
        vm_id: _Reporting(
            vm_id=vm_id,
            status=known[vm_id][0],
            last_seen=from_driver_time(known[vm_id][1]),
            vitals=orjson.loads(vitals),
            services=services,
            reef_config=reef_config,
        )
        for vm_id, (services, vitals, reef_config) in stored.items()
    }
    at = to_driver_time(now)
    written = {}
    for beat in beats:
        if _apply(beat, vms[beat.vm_id], now, interval, outcome):
            outcome.seen[beat.vm_id] = at
            written[beat.vm_id] = vms[beat.vm_id]
    reports = [
        queries.Report(vm.vm_id, vm.status, vm.vitals, vm.new_services) for vm in written.values()
    ]
    if reports:
        queries.record_reports(reports, now, *liveness.deadlines(now, interval), interval)


def _apply(beat: Heartbeat, vm: _Reporting, now: datetime, interval: int, outcome: Outcome) -> bool:
    """Apply a heartbeat to the row in memory; return False if a newer one is known.

    The time of arrival counts, because the VM's clock may be wrong.
    """
    if now < vm.last_seen or _is_out_of_order(beat, vm.vitals):
        return False
    was_paused = vm.status == Status.PAUSED
    status = beat.status or (Status.PAUSED if was_paused else Status.RUNNING)
    changed = vm.status != status
    vm.status, vm.last_seen = status, now
    if beat.services is not None:
        before = json.loads(vm.services) if vm.new_services is None else vm.new_services
        changed |= beat.services != before
        vm.new_services = beat.services
    reported = {**_clock_facts(beat, now), **(beat.vitals or {})}
    if reported:
        duplicate = _duplicate_facts(vm.vitals, reported.get("machine"), now, interval)
        vm.vitals = {**vm.vitals, **reported, **duplicate}
        digest = reported.get("reefConfigDigest")
        if digest and digest.lower() != _digest_of_text(vm.reef_config):
            outcome.dna_mismatches.add(vm.vm_id)
    if changed:
        outcome.changed.add(vm.vm_id)
    return True


def _is_out_of_order(beat: Heartbeat, vitals: Mapping[str, Any]) -> bool:
    """Return whether the VM sent a later heartbeat before, by its own clock."""
    last_sent = vitals.get("saidAt")
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


def _write_gaps(known: Locked, outcome: Outcome) -> None:
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


@functools.lru_cache(maxsize=64)
def wire_date(value: DriverTime) -> str:
    """Return a time from the database in the wire format. Does not accept None.

    Cached: heartbeats of one batch have the same time.
    """
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
