"""Actions of rules. Each function returns its outcome or raises a ReefError.

`Postponed` delays the firing: it is checked again later.
"""

from __future__ import annotations

from collections.abc import Callable

from bootloader.inventory import finding_rules
from lieutenants import services as lieutenants
from lieutenants.vm_handler import lieutenants_by_vm
from reef_site.common import clock
from reef_site.common.errors import Conflict, NotFound
from registry import services as registry
from registry.models import Status
from registry.rules import webhooks
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


def run_action(rule: Rule, firing: Firing) -> str:
    """Run the rule's action on the subject of the firing; return the outcome."""
    return _ACTIONS[Action(rule.action)](rule, firing)


def _note(rule: Rule, _firing: Firing) -> str:
    return rule.text or f"noted: {rule.sentence}"


def _snapshot(rule: Rule, firing: Firing) -> str:
    """Take a snapshot, unless one is newer than the firing: one snapshot serves many firings."""
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


def _restart(rule: Rule, firing: Firing) -> str:
    lieutenant = lieutenants_by_vm([firing.subject]).get(firing.subject)
    if lieutenant is None:
        return "nothing to do: is no lieutenant's VM"
    # Another lieutenant may have the same name by now, so compare ids.
    if lieutenants.find(lieutenant.name).pk != lieutenant.pk:
        raise NotFound(f"lieutenant '{lieutenant.name}' was destroyed")
    lieutenants.restart(lieutenant.name, actor=rule.actor)
    return f"lieutenant '{lieutenant.name}' is starting again"


def _destroy(rule: Rule, firing: Firing) -> str:
    """Destroy a VM that is known to be dead and has no active children; else raise Postponed."""
    _require_evidence(firing, evidence_of_death(firing.subject, clock.now()))
    below = Node.objects.active().filter(parent__vm_id=firing.subject).count()
    if below:
        raise Postponed(f"{below} VMs stand below it")
    if not Node.objects.active().filter(vm_id=firing.subject).exists():
        return _destroy_unplaced(rule, firing)
    cause = f"firing {firing.pk} of {rule.actor}"[:200]
    job, _ = operations.start(Operation.DESTROY, firing.subject, by=rule.actor, cause=cause)
    return f"job {job.pk} destroys it"


def _do_proposed(rule: Rule, firing: Firing) -> str:
    """Run the proposal of a finding; one that deletes needs evidence of death. Raises Postponed."""
    row = finding_rules.finding_of(firing)
    evidence = finding_rules.evidence_for_proposal(row.proposal, row.vm_id, clock.now())
    if evidence:
        _require_evidence(firing, evidence)
    return finding_rules.run_proposal(row, rule.actor)


def _require_evidence(firing: Firing, evidence: list[Evidence]) -> None:
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


_ACTIONS: dict[Action, Callable[[Rule, Firing], str]] = {
    Action.NOTE: _note,
    Action.WEBHOOK: webhooks.call,
    Action.SNAPSHOT: _snapshot,
    Action.MARK_STOPPED: _mark_stopped,
    Action.PAUSE: _operate(Operation.PAUSE),
    Action.RESUME: _operate(Operation.RESUME),
    Action.RESTART: _restart,
    Action.DESTROY: _destroy,
    Action.DO_PROPOSED: _do_proposed,
}
