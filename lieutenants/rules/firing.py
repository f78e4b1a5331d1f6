"""The tick that finds cases, and the small tasks that act on them.

A case is written down once (`one_firing_a_cause`), so two ticks and two beats do no harm. Before
anything is done it is looked at again: what is over is dropped.
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
from reef_site.common import clock
from reef_site.common.dispatch import dispatch
from reef_site.common.errors import ReefError
from registry.models import VM, Watch

logger = logging.getLogger(__name__)

# New cases of a rule, and firings that are done, in one tick.
MOST_CASES = 100
MOST_DUE = 200
# Webhooks: 10 s, 30 s, 90 s, … between tries.
MOST_TRIES = 7
FIRST_PAUSE = timedelta(seconds=10)
HELD_PAUSE = timedelta(minutes=5)
DOUBT_PAUSE = timedelta(seconds=30)
KEPT = timedelta(days=90)
# These reach outside of the database, so they stand in no transaction.
_OUTSIDE = (Action.WEBHOOK, Action.SNAPSHOT, Action.DESTROY, Action.DO_PROPOSED)
_jumps = clock.JumpDetector()


def tick(at: datetime | None = None) -> list[int]:
    """Write down new cases of all rules, and ring for what is due; the ids of those."""
    if _jumps.jump_seconds():
        # Times of rows are moved along with the clock; that may still be going on.
        return []
    now = at or clock.now()
    for rule in Rule.objects.on():
        try:
            look(rule, now)
        except ReefError as error:
            logger.warning("rule %s: %s", rule.name, error)
    due = list(Firing.objects.due(now).order_by("due_at").values_list("pk", flat=True)[:MOST_DUE])
    for pk in due:
        # It does not expire: that would go by the clocks of two hosts. A claim lets only one act.
        dispatch("rules.act", pk)
    _forget(now)
    return due


def look(rule: Rule, now: datetime) -> int:
    """Write down new cases of one rule; how many there may be."""
    lately = Firing.objects.filter(rule=rule, at__gt=now - timedelta(hours=1)).count()
    room = min(MOST_CASES, rule.most_an_hour - lately)
    if room <= 0:
        return 0
    found = conditions.cases(rule, now, room)
    due = now + timedelta(minutes=rule.grace_minutes)
    Firing.objects.bulk_create([_firing(rule, case, now, due) for case in found], 100, True)
    return len(found)


def act(firing_id: int) -> None:
    """Do what one firing asks for, if it still does."""
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


def _forget(now: datetime) -> None:
    """Old firings go, but not while their subject is there: they would fire again."""
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
            # Done and written down together, or neither.
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
    """A case that a rule would fire for, and what stands against it."""

    case: Case
    proofs: list[Proof]

    @property
    def acts(self) -> bool:
        """Whether it would be done as things stand."""
        return not self.proofs or enough(self.proofs)


@dataclass(frozen=True)
class DryRun:
    """What a rule would do now. `grace`: reef was away, so nobody counts as late or silent."""

    rule: Rule
    at: datetime
    grace: bool
    would: list[Would]
    more: bool


def dry_run(rule: Rule, at: datetime | None = None) -> DryRun:
    """What would happen if the rule were on; changes nothing."""
    now = at or clock.now()
    found = conditions.cases(rule, now, MOST_CASES + 1)
    would = [Would(case, _proofs_for(rule, case, now)) for case in found[:MOST_CASES]]
    return DryRun(rule, now, Watch.grace(now), would, len(found) > MOST_CASES)


def _proofs_for(rule: Rule, case: Case, now: datetime) -> list[Proof]:
    """What is looked at before this rule ends somebody; nothing if it does not."""
    if rule.action == Action.DESTROY:
        return proofs(case.subject, now)
    if rule.action == Action.DO_PROPOSED:
        return proofs_against(case.evidence["proposal"], case.evidence["vm_id"], now)
    return []
