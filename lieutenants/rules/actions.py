"""Actions of rules. Each function returns its outcome or raises a ReefError.

`Held` postpones the firing: it is checked again later.
"""

from __future__ import annotations

from collections.abc import Callable

from lieutenants import services as lieutenants
from lieutenants.operations import handlers, plain_vms
from lieutenants.operations import services as operations
from lieutenants.operations.agents import lieutenants_by_vm
from lieutenants.operations.models import Operation
from lieutenants.rules import findings, webhooks
from lieutenants.rules.models import Action, Firing, Rule
from lieutenants.rules.proofs import Proof, enough, proofs
from reef_site.common import clock
from reef_site.common.errors import NotFound, ReefError
from registry.models import Status
from vmtree import snapshots
from vmtree.models import Node
from vmtree.snapshot_models import Snapshot, Why


class Held(ReefError):
    """The action has to wait for something else."""

    status = 409


def do(rule: Rule, firing: Firing) -> str:
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
    changed = plain_vms.set_status(firing.subject, Status.STOPPED, only_from=[Status.RUNNING])
    return "marked stopped" if changed else "was not running"


def _ask(verb: Operation) -> Callable[[Rule, Firing], str]:
    def ask(rule: Rule, firing: Firing) -> str:
        handler, effect = handlers.effects(verb, [firing.subject])[firing.subject]
        if effect.left_out:
            return f"nothing to do: {effect.left_out}"
        handler.act(verb, firing.subject, rule.actor)
        return f"asked to {verb}: {effect.does}"

    return ask


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
    """Destroy a VM that is proven dead and has no active children; else raise Held."""
    _must_be_dead(firing, proofs(firing.subject, clock.now()))
    below = Node.objects.living().filter(parent__vm_id=firing.subject).count()
    if below:
        raise Held(f"{below} VMs stand below it")
    if not Node.objects.living().filter(vm_id=firing.subject).exists():
        return _destroy_unplaced(rule, firing)
    cause = f"firing {firing.pk} of {rule.actor}"[:200]
    job, _ = operations.start(Operation.DESTROY, firing.subject, by=rule.actor, cause=cause)
    return f"job {job.pk} destroys it"


def _do_proposed(rule: Rule, firing: Firing) -> str:
    """Run the proposal of a finding; one that deletes needs proof of death. Raises Held."""
    row = findings.finding_of(firing)
    signs = findings.proofs_against(row.proposal, row.vm_id, clock.now())
    if signs:
        _must_be_dead(firing, signs)
    return findings.do_proposed(row, rule.actor)


def _must_be_dead(firing: Firing, found: list[Proof]) -> None:
    firing.evidence["proofs"] = [vars(proof) for proof in found]
    if not enough(found):
        said = "; ".join(f"{proof.source}: {proof.text}" for proof in found)
        raise Held(f"not proven dead by two signs ({said})")


def _destroy_unplaced(rule: Rule, firing: Firing) -> str:
    """Destroy a registered VM that is not in the tree."""
    made = snapshots.take(by=rule.actor, why=Why.CHANGE).snapshot
    handlers.handler_for(firing.subject).act(Operation.DESTROY, firing.subject, rule.actor)
    plain_vms.remove_vm(firing.subject, rule.actor)
    return f"destroyed and deregistered, after snapshot {made.file}"


_ACTIONS: dict[Action, Callable[[Rule, Firing], str]] = {
    Action.NOTE: _note,
    Action.WEBHOOK: webhooks.call,
    Action.SNAPSHOT: _snapshot,
    Action.MARK_STOPPED: _mark_stopped,
    Action.PAUSE: _ask(Operation.PAUSE),
    Action.RESUME: _ask(Operation.RESUME),
    Action.RESTART: _restart,
    Action.DESTROY: _destroy,
    Action.DO_PROPOSED: _do_proposed,
}
