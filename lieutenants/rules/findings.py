"""Rules about findings: what providers, tree and registry say differently, and what is proposed."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

from django.db.models import QuerySet

from bootloader import reconcile
from bootloader.models import Finding
from bootloader.states import FindingKind, Proposal
from lieutenants.rules.models import Firing, Rule
from lieutenants.rules.proofs import Proof, silence, status
from reef_site.common.errors import Conflict
from registry.models import VM
from vmtree.models import Node

EVIDENCE = ("kind", "provider", "vm_id", "text", "proposal")


def rows_of(kind: FindingKind) -> Callable[[Rule, datetime], QuerySet[Finding]]:
    """Those of this kind that were open for the rule's minutes."""

    def rows(rule: Rule, now: datetime) -> QuerySet[Finding]:
        until = now - timedelta(minutes=rule.minutes)
        found = Finding.objects.open().filter(kind=kind, found_at__lte=until)
        return found.filter(name__regex=rule.name_regex) if rule.name_pattern else found

    return rows


def finding_of(firing: Firing) -> Finding:
    """The open finding that a firing is about. Raises Conflict when it was decided."""
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


def do_proposed(row: Finding, by: str) -> str:
    """What the finding proposes. Raises what `reconcile.act` raises."""
    done = reconcile.act(row.pk, by=by)
    return f"finding {row.pk}: {done.outcome}"


def proofs_against(proposal: str, vm_id: str, now: datetime) -> list[Proof]:
    """Signs of death, of which two are needed where a rule would delete; else none is needed.

    A VM that vanished is gone already: to bury it deletes nothing.
    """
    if proposal != Proposal.DELETE:
        return []
    vm = VM.objects.filter(pk=vm_id).first() if vm_id else None
    placed = bool(vm_id) and Node.objects.living().filter(vm_id=vm_id).exists()
    place = "the tree has it" if placed else "the tree does not have it"
    if vm is None:
        unheard = Proof("silence", holds=True, text="it is not registered; no beat ever came here")
        return [Proof("tree", holds=not placed, text=place), unheard]
    return [Proof("tree", holds=not placed, text=place), silence(vm, now), status(vm)]


KINDS = {
    "finding-unknown": FindingKind.UNKNOWN,
    "finding-vanished": FindingKind.VANISHED,
    "finding-useless": FindingKind.USELESS,
}
