"""Conditions of lifecycle rules about findings, and the action that does a proposal."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from django.db.models import QuerySet

from bootloader.inventory import reconcile
from bootloader.models import Finding
from bootloader.states import FindingKind, Proposal
from reef_site.common import clock
from reef_site.common.errors import Conflict
from registry.models import VM
from registry.rules import actions, conditions
from registry.rules.actions import ActionHandler
from registry.rules.conditions import Case, Condition
from registry.rules.evidence import Evidence, silence, status
from registry.rules.models import Action, Event, Firing, Rule
from vmtree.models import Node

EVIDENCE_COLUMNS = ("kind", "provider", "vm_id", "text", "proposal")


def register() -> None:
    """Register conditions and actions of rules."""
    conditions.register({event: _condition(kind) for event, kind in KIND_BY_EVENT.items()})
    handler = ActionHandler(do_proposed, is_external=True, evidence=_evidence_for_case)
    actions.register({Action.DO_PROPOSED: handler})


def do_proposed(rule: Rule, firing: Firing) -> str:
    """Run the proposal of a finding; one that deletes needs evidence of death. Raises Postponed."""
    row = _finding_of(firing)
    evidence = evidence_for_proposal(row.proposal, row.vm_id, clock.now())
    if evidence:
        actions.require_evidence(firing, evidence)
    done = reconcile.act(row.pk, by=rule.actor)
    return f"finding {row.pk}: {done.outcome}"


def _finding_of(firing: Firing) -> Finding:
    """Return the open finding of a firing. Raises Conflict if it has been decided."""
    row = (
        Finding.objects.open()
        .filter(
            machine_id=firing.subject,
            found_at=firing.cause_at,
            kind=firing.evidence.get("kind"),
        )
        .first()
    )
    if row is None:
        raise Conflict("the finding was decided by somebody else")
    return row


def evidence_for_proposal(proposal: str, vm_id: str, now: datetime) -> list[Evidence]:
    """Return the evidence of death if the proposal deletes a machine, else an empty list.

    A vanished VM needs none: its machine is gone already.
    """
    if proposal != Proposal.DELETE:
        return []
    vm = VM.objects.filter(pk=vm_id).first() if vm_id else None
    in_tree = bool(vm_id) and Node.objects.active().filter(vm_id=vm_id).exists()
    place = "the tree has it" if in_tree else "the tree does not have it"
    if vm is None:
        unheard = Evidence(
            "silence", holds=True, text="it is not registered; no beat ever came here"
        )
        return [Evidence("tree", holds=not in_tree, text=place), unheard]
    return [Evidence("tree", holds=not in_tree, text=place), silence(vm, now), status(vm)]


def _evidence_for_case(case: Case, now: datetime) -> list[Evidence]:
    return evidence_for_proposal(case.evidence["proposal"], case.evidence["vm_id"], now)


def _condition(kind: FindingKind) -> Condition:
    return Condition(_findings_of_kind(kind), "machine_id", "name", "found_at", EVIDENCE_COLUMNS)


def _findings_of_kind(kind: FindingKind) -> Callable[[Rule, datetime], QuerySet[Finding]]:
    """Return a query for findings of this kind that have been open for the minutes of a rule."""

    def rows(rule: Rule, now: datetime) -> QuerySet[Finding]:
        until = now - rule.duration
        found = Finding.objects.open().filter(kind=kind, found_at__lte=until)
        return found.filter(name__regex=rule.name_regex) if rule.name_pattern else found

    return rows


KIND_BY_EVENT = {
    Event.FINDING_UNKNOWN: FindingKind.UNKNOWN,
    Event.FINDING_VANISHED: FindingKind.VANISHED,
    Event.FINDING_USELESS: FindingKind.USELESS,
}
