"""Rule engine: a tick records new executions, small tasks run their actions.

The constraint `one_firing_a_cause` makes repeated ticks harmless. Every case is checked again
before its action runs; a case that is over is dropped.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.db import transaction
from django.db.models import Exists, OuterRef, QuerySet

from reef_site.common import clock
from reef_site.common.dispatch import dispatch
from reef_site.common.errors import ReefError
from reef_site.common.hooks import Hook
from reef_site.common.webhooks import WebhookFailed
from registry.models import Watch
from registry.rules import actions, conditions
from registry.rules.actions import Postponed
from registry.rules.conditions import Case
from registry.rules.evidence import Evidence, is_sufficient
from registry.rules.models import Firing, FiringState, Rule

logger = logging.getLogger(__name__)

# New cases of one rule, and due executions, in one tick.
MAX_NEW_FIRINGS = 100
MAX_DUE_FIRINGS = 200
# Failed webhooks are retried after 10 s, 30 s, 90 s, …
MAX_ATTEMPTS = 7
FIRST_RETRY_DELAY = timedelta(seconds=10)
POSTPONE_DELAY = timedelta(minutes=5)
UNCERTAIN_DELAY = timedelta(seconds=30)
RETENTION = timedelta(days=90)
subject_tables: Hook[Callable[[], QuerySet[Any]]] = Hook(
    "rules.subject_tables", "Rows whose keys are subjects that still exist; firings of those stay."
)
_jumps = clock.JumpDetector()


def tick(at: datetime | None = None) -> list[int]:
    """Record new cases of all rules and dispatch the due executions; return the ids of those."""
    if _jumps.jump_seconds():
        # The times in rows are adjusted to the new clock; that may not have finished yet.
        return []
    now = at or clock.now()
    for rule in Rule.objects.enabled():
        try:
            record_cases(rule, now)
        except ReefError as error:
            logger.warning("rule %s: %s", rule.name, error)
    due = list(
        Firing.objects.due(now).order_by("due_at").values_list("pk", flat=True)[:MAX_DUE_FIRINGS]
    )
    for pk in due:
        # Without an expiry, since that would compare the clocks of two hosts. Only one task can
        # claim the firing; the next tick repeats a lost dispatch.
        dispatch("rules.act", pk)
    _delete_old_firings(now)
    return due


def record_cases(rule: Rule, now: datetime) -> int:
    """Record new cases of one rule, up to its hourly limit; return their number."""
    recent = Firing.objects.filter(rule=rule, at__gt=now - timedelta(hours=1)).count()
    room = min(MAX_NEW_FIRINGS, rule.most_an_hour - recent)
    if room <= 0:
        return 0
    found = conditions.find_cases(rule, now, room)
    due = now + timedelta(minutes=rule.grace_minutes)
    Firing.objects.bulk_create([_new_firing(rule, case, now, due) for case in found], 100, True)
    return len(found)


def act(firing_id: int) -> None:
    """Run the action of a firing if it is due and its case still holds."""
    firing = Firing.objects.claim(firing_id)
    if firing is None:
        return
    rule = firing.rule
    if rule is None or not rule.enabled:
        firing.end(FiringState.DROPPED, "the rule was switched off")
    elif (rule.event, rule.action) != (firing.event, firing.action):
        firing.end(FiringState.DROPPED, "the rule says something else by now")
    elif not conditions.still_holds(rule, firing, clock.now()):
        firing.end(FiringState.DROPPED, "it is over, before anything was done")
    elif conditions.is_uncertain(firing, clock.now()):
        text = "waits: reef was away, and heartbeats may still come"
        firing.postpone(UNCERTAIN_DELAY, text, counts=False)
    else:
        _act(rule, firing)


def _delete_old_firings(now: datetime) -> None:
    """Delete old executions whose subject is gone; the others prevent a second one."""
    gone = [~Exists(rows().filter(pk=OuterRef("subject"))) for rows in subject_tables]
    old = Firing.objects.filter(*gone, ended_at__lt=now - RETENTION)
    ids = list(old.values_list("pk", flat=True)[:1000])
    if ids:
        Firing.objects.filter(pk__in=ids).delete()


def _new_firing(rule: Rule, case: Case, now: datetime, due: datetime) -> Firing:
    return Firing(
        rule=rule,
        rule_name=rule.name,
        event=rule.event,
        action=rule.action,
        subject=case.subject,
        subject_name=case.name,
        cause_at=case.since,
        evidence=case.evidence,
        at=now,
        due_at=due,
    )


def _act(rule: Rule, firing: Firing) -> None:
    handler = actions.action_handlers[rule.action]
    try:
        if handler.is_external:
            _finish(firing, handler.run(rule, firing))
        else:
            # The action and its outcome are committed together.
            with transaction.atomic():
                _finish(firing, handler.run(rule, firing))
    except Postponed as error:
        firing.postpone(POSTPONE_DELAY, f"waits: {error}", counts=False)
    except WebhookFailed as error:
        _retry_or_fail(firing, str(error))
    except ReefError as error:
        firing.end(FiringState.FAILED, str(error))
    except Exception:
        logger.exception("firing %s of rule %s", firing.pk, rule.name)
        firing.end(FiringState.FAILED, "an error of reef's own; its log tells more")


def _finish(firing: Firing, outcome: str) -> None:
    firing.end(FiringState.DONE, outcome, **firing.evidence)
    logger.info("rule %s: %s: %s", firing.rule_name, firing.subject, outcome)


def _retry_or_fail(firing: Firing, problem: str) -> None:
    if firing.attempts >= MAX_ATTEMPTS:
        firing.end(FiringState.FAILED, f"given up after {firing.attempts} tries: {problem}")
    else:
        firing.postpone(
            FIRST_RETRY_DELAY * 3 ** (firing.attempts - 1), f"tried again later: {problem}"
        )


# -- dry run -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class DryRunCase:
    """A case for which a rule would fire, and the evidence its action needs."""

    case: Case
    evidence: list[Evidence]

    @property
    def acts(self) -> bool:
        """Return whether the action would run now."""
        return not self.evidence or is_sufficient(self.evidence)


@dataclass(frozen=True)
class DryRun:
    """Result of a dry run. `grace`: reef was away, so no VM counts as late or silent."""

    rule: Rule
    at: datetime
    grace: bool
    cases: list[DryRunCase]
    more: bool


def dry_run(rule: Rule, at: datetime | None = None) -> DryRun:
    """Return what the rule would do now if it were enabled; changes nothing."""
    now = at or clock.now()
    found = conditions.find_cases(rule, now, MAX_NEW_FIRINGS + 1)
    cases = [DryRunCase(case, _evidence_for(rule, case, now)) for case in found[:MAX_NEW_FIRINGS]]
    return DryRun(rule, now, Watch.grace(now), cases, len(found) > MAX_NEW_FIRINGS)


def _evidence_for(rule: Rule, case: Case, now: datetime) -> list[Evidence]:
    """Return the evidence of death that the action needs; empty if it needs none."""
    evidence = actions.action_handlers[rule.action].evidence
    return evidence(case, now) if evidence else []
