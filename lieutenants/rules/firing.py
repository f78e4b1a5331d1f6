"""Rule engine: a tick records new firings, small tasks run their actions.

The constraint `one_firing_a_cause` makes repeated ticks harmless. Every case is checked again
before its action runs; a case that is over is dropped.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db import transaction
from django.db.models import Exists, OuterRef

from lieutenants.models import Lieutenant
from lieutenants.rules import actions, conditions
from lieutenants.rules.actions import Held
from lieutenants.rules.conditions import Case
from lieutenants.rules.findings import proofs_against
from lieutenants.rules.models import Action, Firing, FiringState, Rule
from lieutenants.rules.proofs import Proof, enough, proofs
from lieutenants.rules.webhooks import WebhookFailed
from reef_site.common import broker, clock
from reef_site.common.errors import ReefError
from registry.models import VM, Watch

logger = logging.getLogger(__name__)

# New cases of one rule, and due firings, in one tick.
MOST_CASES = 100
MOST_DUE = 200
# Failed webhooks are retried after 10 s, 30 s, 90 s, …
MOST_TRIES = 7
FIRST_PAUSE = timedelta(seconds=10)
HELD_PAUSE = timedelta(minutes=5)
DOUBT_PAUSE = timedelta(seconds=30)
KEPT = timedelta(days=90)
# These actions reach beyond the database, so they run outside of a transaction.
_OUTSIDE = (Action.WEBHOOK, Action.SNAPSHOT, Action.DESTROY, Action.DO_PROPOSED)
_jumps = clock.JumpDetector()


def tick(at: datetime | None = None) -> list[int]:
    """Record new cases of all rules and dispatch the due firings; return the ids of those."""
    if _jumps.look():
        # The times in rows are adjusted to the new clock; that may not have finished yet.
        return []
    now = at or clock.now()
    for rule in Rule.objects.on():
        try:
            look(rule, now)
        except ReefError as error:
            logger.warning("rule %s: %s", rule.name, error)
    due = list(Firing.objects.due(now).order_by("due_at").values_list("pk", flat=True)[:MOST_DUE])
    for pk in due:
        ring(pk)
    _forget(now)
    return due


def look(rule: Rule, now: datetime) -> int:
    """Record new cases of one rule, up to its hourly limit; return their number."""
    lately = Firing.objects.filter(rule=rule, at__gt=now - timedelta(hours=1)).count()
    room = min(MOST_CASES, rule.most_an_hour - lately)
    if room <= 0:
        return 0
    found = conditions.cases(rule, now, room)
    due = now + timedelta(minutes=rule.grace_minutes)
    Firing.objects.bulk_create([_firing(rule, case, now, due) for case in found], 100, True)
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
    elif conditions.in_doubt(firing, clock.now()):
        text = "waits: reef was away, and heartbeats may still come"
        firing.put_off(DOUBT_PAUSE, text, counts=False)
    else:
        _act(rule, firing)


def ring(firing_id: int) -> None:
    """Dispatch a firing; the next tick repeats a lost dispatch."""
    # Without an expiry, since that would compare the clocks of two hosts. Only one task can claim
    # the firing.
    broker.send_task("rules.act", [firing_id])


def _forget(now: datetime) -> None:
    """Delete old firings whose subject is gone; the others prevent a second firing."""
    vms = VM.objects.filter(pk=OuterRef("subject"))
    alive = Lieutenant.objects.living().filter(pk=OuterRef("subject"))
    old = Firing.objects.filter(~Exists(vms), ~Exists(alive), ended_at__lt=now - KEPT)
    ids = list(old.values_list("pk", flat=True)[:1000])
    if ids:
        Firing.objects.filter(pk__in=ids).delete()


def _firing(rule: Rule, case: Case, now: datetime, due: datetime) -> Firing:
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
    try:
        if rule.action in _OUTSIDE:
            _finish(firing, actions.do(rule, firing))
        else:
            # The action and its outcome are committed together.
            with transaction.atomic():
                _finish(firing, actions.do(rule, firing))
    except Held as held:
        firing.put_off(HELD_PAUSE, f"waits: {held}", counts=False)
    except WebhookFailed as error:
        _again_or_never(firing, str(error))
    except ReefError as error:
        firing.end(FiringState.FAILED, str(error))
    except Exception:
        logger.exception("firing %s of rule %s", firing.pk, rule.name)
        firing.end(FiringState.FAILED, "an error of reef's own; its log tells more")


def _finish(firing: Firing, outcome: str) -> None:
    firing.end(FiringState.DONE, outcome, **firing.evidence)
    logger.info("rule %s: %s: %s", firing.rule_name, firing.subject, outcome)


def _again_or_never(firing: Firing, said: str) -> None:
    if firing.attempts >= MOST_TRIES:
        firing.end(FiringState.FAILED, f"given up after {firing.attempts} tries: {said}")
    else:
        firing.put_off(FIRST_PAUSE * 3 ** (firing.attempts - 1), f"tried again later: {said}")


# -- dry run -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Would:
    """A case for which a rule would fire, and the evidence its action needs."""

    case: Case
    proofs: list[Proof]

    @property
    def acts(self) -> bool:
        """Return whether the action would run now."""
        return not self.proofs or enough(self.proofs)


@dataclass(frozen=True)
class DryRun:
    """Result of a dry run. `grace`: reef was away, so no VM counts as late or silent."""

    rule: Rule
    at: datetime
    grace: bool
    would: list[Would]
    more: bool


def dry_run(rule: Rule, at: datetime | None = None) -> DryRun:
    """Return what the rule would do now if it were enabled; changes nothing."""
    now = at or clock.now()
    found = conditions.cases(rule, now, MOST_CASES + 1)
    would = [Would(case, _proofs_for(rule, case, now)) for case in found[:MOST_CASES]]
    return DryRun(rule, now, Watch.grace(now), would, len(found) > MOST_CASES)


def _proofs_for(rule: Rule, case: Case, now: datetime) -> list[Proof]:
    """Return the evidence of death that the action needs; empty if it needs none."""
    if rule.action == Action.DESTROY:
        return proofs(case.subject, now)
    if rule.action == Action.DO_PROPOSED:
        return proofs_against(case.evidence["proposal"], case.evidence["vm_id"], now)
    return []
