"""Rules about findings: differences between providers, the tree and the registry."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

from django.db.models import QuerySet

from bootloader.inventory import reconcile
from bootloader.models import Finding
from bootloader.states import FindingKind, Proposal
from reef_site.common.errors import Conflict
from registry.models import VM
from registry.rules.evidence import Evidence, silence, status
from registry.rules.models import Firing, Rule
from vmtree.models import Node

EVIDENCE_COLUMNS = ("kind", "provider", "vm_id", "text", "proposal")


def findings_of_kind(kind: FindingKind) -> Callable[[Rule, datetime], QuerySet[Finding]]:
    """Return a query for findings of this kind that have been open for the minutes of a rule."""

    def rows(rule: Rule, now: datetime) -> QuerySet[Finding]:
        until = now - timedelta(minutes=rule.minutes)
        found = Finding.objects.open().filter(kind=kind, found_at__lte=until)
        return found.filter(name__regex=rule.name_regex) if rule.name_pattern else found

    return rows


def finding_of(firing: Firing) -> Finding:
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


def run_proposal(row: Finding, by: str) -> str:
    """Run the proposal of a finding; return the outcome. Raises the errors of `reconcile.act`."""
    done = reconcile.act(row.pk, by=by)
    return f"finding {row.pk}: {done.outcome}"


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


KIND_BY_EVENT = {
    "finding-unknown": FindingKind.UNKNOWN,
    "finding-vanished": FindingKind.VANISHED,
    "finding-useless": FindingKind.USELESS,
}
