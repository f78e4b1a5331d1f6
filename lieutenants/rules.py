"""Conditions of lifecycle rules about lieutenants, and the action that restarts one."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from django.db.models import QuerySet

from lieutenants import services
from lieutenants.models import Answer, Lieutenant
from lieutenants.states import Outcome, Status
from lieutenants.vm_handler import lieutenants_by_vm
from reef_site.common.errors import NotFound
from registry.rules import actions, conditions, engine
from registry.rules.actions import ActionHandler
from registry.rules.conditions import LOOKBACK, Condition
from registry.rules.models import Action, Event, Firing, Rule

Rows = QuerySet[Any]


def register() -> None:
    """Register conditions, actions and subjects of rules."""
    conditions.register(CONDITIONS)
    actions.register({Action.RESTART: ActionHandler(restart)})
    engine.subject_tables.register(Lieutenant.objects.active, key="lieutenants")


def restart(rule: Rule, firing: Firing) -> str:
    """Restart the lieutenant of a firing; return the outcome. Raises errors of `services`."""
    lieutenant = lieutenants_by_vm([firing.subject]).get(firing.subject)
    if lieutenant is None:
        return "nothing to do: is no lieutenant's VM"
    # Another lieutenant may have the same name by now, so compare ids.
    if services.find(lieutenant.name).pk != lieutenant.pk:
        raise NotFound(f"lieutenant '{lieutenant.name}' was destroyed")
    services.restart(lieutenant.name, actor=rule.actor)
    return f"lieutenant '{lieutenant.name}' is starting again"


def _lieutenants(rule: Rule) -> Rows:
    rows = Lieutenant.objects.all()
    return rows.filter(name__regex=rule.name_regex) if rule.name_pattern else rows


def _error(rule: Rule, now: datetime) -> Rows:
    """Return lieutenants that stay in error; those with a scheduled restart do not count."""
    rows = _lieutenants(rule).filter(status=Status.ERROR, restart_at__isnull=True)
    return rows.filter(status_since__lte=now - rule.duration)


def _failing(rule: Rule, now: datetime) -> Rows:
    """Return lieutenants whose agent runs, but whose requests all fail in the same way."""
    rows = _lieutenants(rule).exclude(status=Status.DESTROYED)
    return rows.filter(failing_since__lte=now - rule.duration)


def _idle(rule: Rule, now: datetime) -> Rows:
    limit = now - rule.duration
    rows = _lieutenants(rule).filter(status=Status.IDLE)
    return rows.filter(status_since__lte=limit, last_activity_at__lte=limit)


def _finished(rule: Rule, now: datetime) -> Rows:
    since = max(rule.watched_from, now - rule.duration - LOOKBACK)
    return _have_finished(rule, now).filter(ended_at__gt=since)


def _have_finished(rule: Rule, now: datetime) -> Rows:
    rows = Answer.objects.filter(outcome=Outcome.COMPLETED)
    rows = rows.filter(ended_at__lte=now - rule.duration)
    rows = rows.exclude(lieutenant__status=Status.DESTROYED)
    return rows.filter(lieutenant__name__regex=rule.name_regex) if rule.name_pattern else rows


CONDITIONS: dict[Event, Condition] = {
    Event.LIEUTENANT_ERROR: Condition(
        _error, "id", "name", "status_since", ("status", "status_since", "error", "restarts")
    ),
    Event.LIEUTENANT_FAILING: Condition(
        _failing, "id", "name", "failing_since", ("status", "failing_since", "trouble")
    ),
    Event.LIEUTENANT_IDLE: Condition(
        _idle, "id", "name", "status_since", ("status", "status_since", "last_activity_at")
    ),
    Event.LIEUTENANT_FINISHED: Condition(
        _finished,
        *("lieutenant_id", "lieutenant__name", "ended_at"),
        ("id", "ended_at", "outcome"),
        _have_finished,
    ),
}
