"""What rules do. Each function says what came of it, or raises a FleetError.

`Held` means not now: the firing waits and is looked at again.
"""

from __future__ import annotations

from collections.abc import Callable

from lieutenants import services as lieutenants
from lieutenants.operations import handlers, plain_vms
from lieutenants.operations import services as operations
from lieutenants.operations.agents import lieutenants_at
from lieutenants.operations.models import Verb
from lieutenants.rules import findings, webhooks
from lieutenants.rules.models import Action, Firing, Rule
from lieutenants.rules.proofs import Proof, enough, proofs
from reef_site.common import clock
from reef_site.common.errors import Conflict, NotFound
from registry.models import Status
from vmtree import snapshots
from vmtree.models import Node
from vmtree.snapshot_models import Snapshot, Why


class Held(Conflict):
    """The action cannot run yet: something has to change first."""


def do(rule: Rule, firing: Firing) -> str:
    """Do what the rule says to the firing's subject; what came of it."""
    return _ACTIONS[Action(rule.action)](rule, firing)


def _note(rule: Rule, _firing: Firing) -> str:
    return rule.text or f"noted: {rule.sentence}"


def _snapshot(rule: Rule, firing: Firing) -> str:
    """One snapshot serves all that happened before it."""
    newer = Snapshot.objects.ready().filter(at__gte=firing.at).order_by("at").first()
    if newer:
        return f"snapshot {newer.file} was taken since"
    return f"snapshot {snapshots.take(by=rule.actor, why=Why.CHANGE).snapshot.file}"


def _mark_stopped(_rule: Rule, firing: Firing) -> str:
    changed = plain_vms.set_status(firing.subject, Status.STOPPED, only_from=[Status.RUNNING])
    return "marked stopped" if changed else "was not running"


def _ask(verb: Verb) -> Callable[[Rule, Firing], str]:
    def ask(rule: Rule, firing: Firing) -> str:
        handler, outlook = handlers.outlooks(verb, [firing.subject])[firing.subject]
        if outlook.left_out:
            return f"nothing to do: {outlook.left_out}"
        handler.act(verb, firing.subject, rule.actor)
        return f"asked to {verb}: {outlook.does}"

    return ask


def _restart(rule: Rule, firing: Firing) -> str:
    lieutenant = lieutenants_at([firing.subject]).get(firing.subject)
    if lieutenant is None:
        return "nothing to do: is no lieutenant's VM"
    # Its name may be another's by now; the id is not.
    if lieutenants.find(lieutenant.name).pk != lieutenant.pk:
        raise NotFound(f"lieutenant '{lieutenant.name}' was destroyed")
    lieutenants.restart(lieutenant.name, actor=rule.actor)
    return f"lieutenant '{lieutenant.name}' is starting again"


def _destroy(rule: Rule, firing: Firing) -> str:
    """Only the dead, and nobody above the living."""
    _must_be_dead(firing, proofs(firing.subject, clock.now()))
    below = Node.objects.living().filter(parent__vm_id=firing.subject).count()
    if below:
        raise Held(f"{below} VMs stand below it")
    if not Node.objects.living().filter(vm_id=firing.subject).exists():
        return _destroy_unplaced(rule, firing)
    cause = f"firing {firing.pk} of {rule.actor}"[:200]
    job, _ = operations.start(Verb.DESTROY, firing.subject, by=rule.actor, cause=cause)
    return f"job {job.pk} destroys it"


def _do_proposed(rule: Rule, firing: Firing) -> str:
    """As an operator would; deletes only what two signs say is dead."""
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
    """One that is registered, but has no place in the tree."""
    made = snapshots.take(by=rule.actor, why=Why.CHANGE).snapshot
    handlers.looks_after(firing.subject).act(Verb.DESTROY, firing.subject, rule.actor)
    plain_vms.bury(firing.subject, rule.actor)
    return f"destroyed and deregistered, after snapshot {made.file}"


_ACTIONS: dict[Action, Callable[[Rule, Firing], str]] = {
    Action.NOTE: _note,
    Action.WEBHOOK: webhooks.call,
    Action.SNAPSHOT: _snapshot,
    Action.MARK_STOPPED: _mark_stopped,
    Action.PAUSE: _ask(Verb.PAUSE),
    Action.RESUME: _ask(Verb.RESUME),
    Action.RESTART: _restart,
    Action.DESTROY: _destroy,
    Action.DO_PROPOSED: _do_proposed,
}
