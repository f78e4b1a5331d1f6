"""Conditions of rules as indexed queries; they never fetch more rows than requested.

Those about VMs are here. Higher apps register theirs in `AppConfig.ready`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.db.models import Exists, OuterRef, Q, QuerySet

from reef_site.common import clock
from reef_site.common.hooks import Hook
from registry import liveness
from registry.models import VM, Watch
from registry.models import Status as VMStatus
from registry.rules.models import Action, Event, Firing, Rule
from vmtree.models import Node

# Past events count this long, in addition to the minutes of the rule.
LOOKBACK = timedelta(days=1)
Rows = QuerySet[Any]


@dataclass(frozen=True)
class Case:
    """A subject that meets the condition of a rule, since when, and the evidence."""

    subject: str
    name: str
    since: datetime
    evidence: dict[str, Any]


@dataclass(frozen=True)
class Condition:
    """An event as a query, with its columns for subject, name, time of the cause and evidence.

    `rows` finds new cases. `known` finds cases of any age, even if reef itself was away; it decides
    whether a case that was found before still holds.
    """

    rows: Callable[[Rule, datetime], Rows]
    subject: str
    name: str
    since: str
    evidence: tuple[str, ...]
    known: Callable[[Rule, datetime], Rows] | None = None


event_conditions: Hook[Condition] = Hook(
    "rules.conditions", "The condition of each event, by event."
)


def register(new: Mapping[Event, Condition]) -> None:
    """Register the conditions of an app's events."""
    for event, condition in new.items():
        event_conditions.register(condition, key=event.value)


def find_cases(rule: Rule, now: datetime, limit: int) -> list[Case]:
    """Return the cases for which the rule has not fired yet, oldest first."""
    condition = event_conditions[rule.event]
    return [_case(row, condition, now) for row in unfired_rows(rule, now)[:limit]]


def unfired_rows(rule: Rule, now: datetime) -> QuerySet[Any, dict[str, Any]]:
    """Return the columns of these cases, oldest first."""
    condition = event_conditions[rule.event]
    fired = Firing.objects.filter(
        rule=rule.pk, subject=OuterRef(condition.subject), cause_at=OuterRef(condition.since)
    )
    columns = {condition.subject, condition.name, condition.since, *condition.evidence}
    rows = condition.rows(rule, now).filter(~Exists(fired))
    return rows.order_by(condition.since).values(*columns)


def still_holds(rule: Rule, firing: Firing, now: datetime) -> bool:
    """Return whether the cause of this firing still holds."""
    condition = event_conditions[firing.event]
    same = {condition.subject: firing.subject, condition.since: firing.cause_at}
    rows = condition.known or condition.rows
    return rows(rule, now).filter(**same).exists()


def is_uncertain(firing: Firing, now: datetime) -> bool:
    """Return whether the case is uncertain: reef was away, so it may have missed heartbeats."""
    return firing.event in (Event.VM_LATE, Event.VM_SILENT) and Watch.grace(now)


def _case(row: dict[str, Any], condition: Condition, now: datetime) -> Case:
    evidence = {name.split("__")[-1]: _plain(row[name]) for name in condition.evidence}
    return Case(
        subject=row[condition.subject],
        name=row[condition.name],
        since=row[condition.since],
        evidence={**evidence, "seen_at": clock.format_timestamp(now)},
    )


def _plain(value: Any) -> Any:
    return clock.format_timestamp(value) if isinstance(value, datetime) else value


# -- VMs -----------------------------------------------------------------------------------------


def _vms(rule: Rule) -> Rows:
    rows = VM.objects.all()
    if rule.role:
        rows = rows.filter(role=rule.role)
    if rule.category:
        nodes = Node.objects.active().filter(category=rule.category)
        rows = rows.filter(pk__in=nodes.values("vm_id"))
    if rule.name_pattern:
        rows = rows.filter(name__regex=rule.name_regex)
    return rows


def _unless_in_grace(
    rows: Callable[[Rule, datetime], Rows],
) -> Callable[[Rule, datetime], Rows]:
    def found(rule: Rule, now: datetime) -> Rows:
        return VM.objects.none() if Watch.grace(now) else rows(rule, now)

    return found


def _late(rule: Rule, now: datetime) -> Rows:
    return _vms(rule).filter(late_after__lte=now - rule.duration)


def _silent(rule: Rule, now: datetime) -> Rows:
    limit = now - rule.duration
    # A silent VM is late too, and the index begins with the deadline for late.
    silent = Q(late_after__lte=limit, silent_after__lte=limit)
    if rule.action == Action.DESTROY:
        # Stopped VMs have no deadline: count from when they would have become silent.
        _, quiet = liveness.deadlines(limit, 0)
        stopped = Q(late_after__isnull=True, status=VMStatus.STOPPED)
        silent |= stopped & Q(last_seen__lte=limit - (quiet - limit))
    return _vms(rule).filter(silent)


def _registered(rule: Rule, now: datetime) -> Rows:
    since = max(rule.watched_from, now - rule.duration - LOOKBACK)
    return _were_registered(rule, now).filter(registered_at__gt=since)


def _were_registered(rule: Rule, now: datetime) -> Rows:
    return _vms(rule).filter(registered_at__lte=now - rule.duration)


_VM_FACTS = ("status", "role", "last_seen", "late_after", "silent_after")
CONDITIONS: dict[Event, Condition] = {
    Event.VM_LATE: Condition(_unless_in_grace(_late), "id", "name", "last_seen", _VM_FACTS, _late),
    Event.VM_SILENT: Condition(
        _unless_in_grace(_silent), "id", "name", "last_seen", _VM_FACTS, _silent
    ),
    Event.VM_REGISTERED: Condition(
        _registered,
        *("id", "name", "registered_at"),
        ("status", "role", "registered_by"),
        _were_registered,
    ),
}
