"""Heartbeats as they arrive: their fields, and the parsing of bodies."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import datetime
from typing import Any, NamedTuple, cast

import orjson
from rest_framework.exceptions import ValidationError

from reef_site.common import clock
from reef_site.common.api.fields import StoredJson
from reef_site.common.errors import BadInput
from registry.models import Status

# `values` makes a new list each time. Not a set: given values may not be hashable.
_STATUSES = tuple(Status.values)
_STORED = StoredJson()
MAX_IDS = 10_000
# Of a body: five lists and objects for each of so many VMs.
MAX_CONTAINERS = 5 * MAX_IDS


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


def takes_long(body: bytes) -> bool:
    """Return whether parsing may hold up a thread that has other heartbeats, too.

    Millions of empty lists would take seconds.
    """
    return body.count(b"[") + body.count(b"{") > MAX_CONTAINERS


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
    if status is not None and status not in _STATUSES:
        valid = ", ".join(Status.values)
        raise BadInput(f"{where}status: must be one of {valid}", "status")
    if services is not None and not isinstance(services, list):
        raise BadInput(f"{where}services: must be a list", "services")
    if services is not None:
        try:
            services = _STORED.to_internal_value(services)
        except ValidationError as error:
            (problem,) = cast("list[str]", error.detail)
            raise BadInput(f"{where}services: {problem}", "services") from None
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
