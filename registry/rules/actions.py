"""Actions of rules. Each function returns its outcome or raises a ReefError.

`Postponed` delays the firing: it is checked again later. Higher apps register their actions in
`AppConfig.ready`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime

from reef_site.common import clock
from reef_site.common.errors import Conflict
from reef_site.common.hooks import Hook
from registry import services as registry
from registry.models import Status
from registry.rules import webhooks
from registry.rules.conditions import Case
from registry.rules.evidence import Evidence, evidence_of_death, is_sufficient
from registry.rules.models import Action, Firing, Rule
from vmtree import snapshots
from vmtree.models import Node
from vmtree.operations import handlers
from vmtree.operations import services as operations
from vmtree.operations.models import Operation
from vmtree.snapshot_models import Snapshot, Why


class Postponed(Conflict):
    """The action has to wait for something else."""


@dataclass(frozen=True)
class ActionHandler:
    """Handler of one kind of action on the subject of a firing.

    `run` returns the outcome. An external action reaches beyond the database, so it runs outside of
    a transaction. `evidence` returns the evidence of death that a case needs; empty if none.
    """

    run: Callable[[Rule, Firing], str]
    is_external: bool = False
    evidence: Callable[[Case, datetime], list[Evidence]] | None = None


action_handlers: Hook[ActionHandler] = Hook("rules.actions", "How to run each action, by action.")


def register(new: Mapping[Action, ActionHandler]) -> None:
    """Register the actions that an app can run."""
    for action, handler in new.items():
        action_handlers.register(handler, key=action.value)


def _note(rule: Rule, _firing: Firing) -> str:
    return rule.text or f"noted: {rule.sentence}"


def _snapshot(rule: Rule, firing: Firing) -> str:
    """Take a snapshot, unless one is newer than the execution: one snapshot serves many."""
    newer = Snapshot.objects.ready().filter(at__gte=firing.at).order_by("at").first()
    if newer:
        return f"snapshot {newer.file} was taken since"
    return f"snapshot {snapshots.take(by=rule.actor, why=Why.CHANGE).snapshot.file}"


def _mark_stopped(_rule: Rule, firing: Firing) -> str:
    changed = registry.set_status(firing.subject, Status.STOPPED, only_from=[Status.RUNNING])
    return "marked stopped" if changed else "was not running"


def _operate(verb: Operation) -> Callable[[Rule, Firing], str]:
    def operate(rule: Rule, firing: Firing) -> str:
        handler, effect = handlers.effects(verb, [firing.subject])[firing.subject]
        if effect.left_out:
            return f"nothing to do: {effect.left_out}"
        handler.act(verb, firing.subject, rule.actor)
        return f"asked to {verb}: {effect.does}"

    return operate


def _destroy(rule: Rule, firing: Firing) -> str:
    """Destroy a VM that is known to be dead and has no active children; else raise Postponed."""
    require_evidence(firing, evidence_of_death(firing.subject, clock.now()))
    below = Node.objects.active().filter(parent__vm_id=firing.subject).count()
    if below:
        raise Postponed(f"{below} VMs stand below it")
    if not Node.objects.active().filter(vm_id=firing.subject).exists():
        return _destroy_unplaced(rule, firing)
    cause = f"firing {firing.pk} of {rule.actor}"[:200]
    job, _ = operations.start(Operation.DESTROY, firing.subject, by=rule.actor, cause=cause)
    return f"job {job.pk} destroys it"


def require_evidence(firing: Firing, evidence: list[Evidence]) -> None:
    """Note the evidence in the firing. Raises Postponed if it is not sufficient."""
    firing.evidence["proofs"] = [vars(each) for each in evidence]
    if not is_sufficient(evidence):
        statements = "; ".join(f"{each.source}: {each.text}" for each in evidence)
        raise Postponed(f"not proven dead by two signs ({statements})")


def _destroy_unplaced(rule: Rule, firing: Firing) -> str:
    """Destroy a registered VM that is not in the tree."""
    taken = snapshots.take(by=rule.actor, why=Why.CHANGE).snapshot
    handlers.handler_for(firing.subject).act(Operation.DESTROY, firing.subject, rule.actor)
    operations.remove_vm(firing.subject, rule.actor)
    return f"destroyed and deregistered, after snapshot {taken.file}"


def _evidence_to_destroy(case: Case, now: datetime) -> list[Evidence]:
    return evidence_of_death(case.subject, now)


ACTIONS: dict[Action, ActionHandler] = {
    Action.NOTE: ActionHandler(_note),
    Action.WEBHOOK: ActionHandler(webhooks.call, is_external=True),
    Action.SNAPSHOT: ActionHandler(_snapshot, is_external=True),
    Action.MARK_STOPPED: ActionHandler(_mark_stopped),
    Action.PAUSE: ActionHandler(_operate(Operation.PAUSE)),
    Action.RESUME: ActionHandler(_operate(Operation.RESUME)),
    Action.DESTROY: ActionHandler(_destroy, is_external=True, evidence=_evidence_to_destroy),
}
