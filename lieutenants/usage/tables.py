"""Usage of any time, by day, hour, lieutenant, model or subtree, as rows for programs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any

from django.db.models import Sum

from lieutenants.transcript.serializers import usage_json
from lieutenants.usage import reports
from lieutenants.usage.models import slot_of
from lieutenants.usage.periods import Periods
from lieutenants.usage.reports import TOKENS, Slots
from lieutenants.usage.serializers import check_span
from reef_site.common import clock
from reef_site.common.clock import format_timestamp
from reef_site.common.errors import NotFound
from vmtree.models import Node

Json = dict[str, Any]
_SUMS = {f"total_{name}": Sum(name) for name in (*TOKENS, "cost")}
Sums = dict[str, Any]


def find(caller: object, query: Json) -> Json:
    """Return the report of a parsed query. Raises BadInput, NotFound."""
    zone = query["zone"] or UTC
    now = clock.now()
    since: datetime = query["since"] or Periods(now, zone).week
    until: datetime = query["until"] or now
    check_span(query["by"], until - since)
    below = _node(query["below"]) if query["below"] else None
    slots = reports.readable_slots(caller, below)
    return make_table(slots, query["by"], since=since, until=until, zone=zone, below=below)


def _node(vm_id: str) -> Node:
    found = Node.objects.filter(vm_id=vm_id).first()
    if found is None:
        raise NotFound("VM not found")
    return found


def make_table(
    slots: Slots, by: str, *, since: datetime, until: datetime, zone: tzinfo, below: Node | None
) -> Json:
    """Return rows and total of the time from `since` to `until`, and the rate per hour now."""
    some = slots.filter(slot__gte=slot_of(since), slot__lt=until)
    if by in ("day", "hour"):
        rows = _by_time(some, by, zone)
    elif by == "model":
        rows = _by_model(some)
    else:
        rows = _by_lieutenant(some) if by == "lieutenant" else _by_subtree(some, below)
    return {
        "by": by,
        "zone": str(zone),
        "since": slot_of(since),
        "until": until,
        "rows": rows,
        "total": usage_json(_aggregate(some)),
        "ratePerHour": float(reports.money(slots, Periods.current(zone)).rate),
    }


def _aggregate(slots: Slots) -> Sums:
    return slots.aggregate(**_SUMS, calls=Sum("calls"))


def _grouped(slots: Slots, *columns: str) -> Iterator[Sums]:
    return iter(slots.values(*columns).annotate(**_SUMS, total_calls=Sum("calls")))


def _row(key: str, name: str | None, sums: Sums) -> Json:
    calls = sums.get("calls", sums.get("total_calls"))
    return {"key": key, "name": name, **usage_json({**sums, "calls": calls})}


def _by_time(slots: Slots, by: str, zone: tzinfo) -> list[Json]:
    """Return days, or hours with any usage, the newest first."""
    name: Callable[[datetime], str] = _hour_of(zone) if by == "hour" else _day_of(zone)
    found: dict[str, Sums] = {}
    for sums in sorted(_grouped(slots, "slot"), key=lambda each: each["slot"], reverse=True):
        _add(found.setdefault(name(sums["slot"]), {}), sums)
    return [_row(key, None, sums) for key, sums in found.items()]


def _day_of(zone: tzinfo) -> Callable[[datetime], str]:
    return lambda slot: slot.astimezone(zone).date().isoformat()


def _hour_of(zone: tzinfo) -> Callable[[datetime], str]:
    def hour(slot: datetime) -> str:
        minutes = slot.astimezone(zone).minute
        return format_timestamp(slot - timedelta(minutes=minutes))

    return hour


def _add(sums: Sums, more: Sums) -> None:
    for name in (*_SUMS, "total_calls"):
        sums[name] = sums.get(name, 0) + more[name]


def _by_model(slots: Slots) -> list[Json]:
    found = _grouped(slots, "provider", "model")
    return _dearest_first(_row(f"{sums['provider']}/{sums['model']}", None, sums) for sums in found)


def _by_lieutenant(slots: Slots) -> list[Json]:
    found = _grouped(slots, "lieutenant_id", "lieutenant__name")
    return _dearest_first(
        _row(sums["lieutenant_id"], sums["lieutenant__name"], sums) for sums in found
    )


def _by_subtree(slots: Slots, below: Node | None) -> list[Json]:
    """Return the children of a node, or the roots, each with what is below it."""
    used = {sums["lieutenant_id"]: sums for sums in _grouped(slots, "lieutenant_id")}
    found: dict[str, tuple[str, Sums]] = {}
    for vm_id, (top_id, name) in reports.tops_of(used, below).items():
        _add(found.setdefault(top_id, (name, {}))[1], used[vm_id])
    return _dearest_first(_row(key, name, sums) for key, (name, sums) in found.items())


def _dearest_first(rows: Iterable[Json]) -> list[Json]:
    return sorted(rows, key=lambda row: (-row["cost"], -row["output"], row["key"]))
