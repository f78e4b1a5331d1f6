"""Compare the providers' machines with tree and registry, and keep the differences as findings.

Operators or rules decide about findings. A finding whose difference disappears is settled; a
dismissed one is not reported again while the difference lasts.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db import IntegrityError, transaction
from django.db.models import Q, QuerySet

from bootloader import providers
from bootloader.exceptions import BadProviderKey, NoSuchMachine, ProviderError
from bootloader.inventory import machines
from bootloader.models import Finding, Machine, Provisioning
from bootloader.providers import base
from bootloader.states import OPEN_STATES, FindingKind, FindingState, Proposal, State
from reef_site.common import clock
from reef_site.common.errors import BadInput, Conflict, NotFound, ReefError
from reef_site.common.hooks import Hook
from registry import services as registry
from registry.models import VM, Status, Watch
from vmtree import permissions, tokens
from vmtree.models import Node

logger = logging.getLogger(__name__)

# Machines get this much time to appear in tree and registry before they are compared.
GRACE_PERIOD = timedelta(minutes=3)
# A running VM without a heartbeat for this long counts as useless.
IDLE_AFTER = timedelta(minutes=30)
SKIPPED_NOTE = (
    f"machines known for less than {int(GRACE_PERIOD.total_seconds() // 60)} minutes are not"
    " compared yet: they may still find their place"
)
# The "provider" of findings that come from the registry's own rows.
REGISTRY = "registry"
# A twin finding is settled when the machines have not alternated for this long.
TWIN_PERIOD = timedelta(minutes=15)
# The state of a machine that its provider no longer lists.
VANISHED = "vanished"
# Actions allowed for each kind of finding; the proposal is always one of them.
ALLOWED_ACTIONS: dict[FindingKind, frozenset[Proposal]] = {
    FindingKind.UNKNOWN: frozenset({Proposal.ADOPT, Proposal.DELETE}),
    FindingKind.VANISHED: frozenset({Proposal.BURY}),
    FindingKind.USELESS: frozenset({Proposal.DELETE, Proposal.PAUSE}),
    FindingKind.TWIN: frozenset({Proposal.REVOKE}),
}
# Adopting a VM only gives it a node in the tree.
ADOPTED_OUTCOME = (
    "taken into the tree; not in the registry until the boot script for it "
    "(POST /bootloader/generate with its vmId) has run there"
)


used_vms: Hook[Callable[[Sequence[str]], Iterable[str]]] = Hook(
    "findings.used_vms", "Return those of these VMs that serve something without heartbeats."
)


@dataclass(frozen=True)
class Discrepancy:
    """A difference that exists now."""

    kind: FindingKind
    machine: Machine
    text: str
    proposal: Proposal


def compare_all() -> int:
    """Compare all providers and return the number of open findings.

    An unreachable provider is logged and does not stop the others.
    """
    for slug in providers.all_slugs():
        try:
            compare_provider(slug)
        except BadProviderKey:
            logger.debug("%s has no good key, so nothing is compared", slug)
        except ProviderError as error:
            logger.info("%s cannot be compared with the fleet: %s", slug, error)
        except ReefError as error:
            logger.warning("%s cannot be compared with the fleet: %s", slug, error)
        except Exception:
            logger.exception("%s cannot be compared with the fleet", slug)
    compare_twins()
    return Finding.objects.open().count()


def compare_provider(slug: str) -> None:
    """Compare one provider's list with our rows. Raise ProviderError."""
    listed = {seen.id: seen for seen in providers.get(slug).list()}
    _update_machines(slug, listed)
    discrepancies = list(_discrepancies(slug, listed))
    for each in discrepancies:
        _record(slug, each)
    current = {(each.kind, each.machine.machine_id) for each in discrepancies}
    existing = Finding.objects.filter(
        provider=slug, state__in=(FindingState.OPEN, FindingState.DISMISSED)
    )
    for row in existing:
        if (row.kind, row.machine_id) not in current:
            unchanged = Finding.objects.filter(pk=row.pk, state=row.state)
            unchanged.update(state=FindingState.SETTLED, decided_at=clock.now())


def compare_twins() -> None:
    """Record findings for VM ids used alternately by two machines, as detected from heartbeats."""
    since = clock.format_timestamp(clock.now() - TWIN_PERIOD)
    found = {vm.pk: vm for vm in VM.objects.filter(vitals__twinSeenAt__gte=since)}
    existing = Finding.objects.filter(
        kind=FindingKind.TWIN, state__in=(FindingState.OPEN, FindingState.DISMISSED)
    )
    for row in existing.exclude(vm_id__in=found):
        unchanged = Finding.objects.filter(pk=row.pk, state=row.state)
        unchanged.update(state=FindingState.SETTLED, decided_at=clock.now())
    for vm in found.values():
        machines_ = " and ".join(str(vm.vitals.get(name)) for name in ("machineBefore", "machine"))
        text = (
            f"machines {machines_} send heartbeats in turn as this VM, last seen at"
            f" {vm.vitals['twinSeenAt']}: one is a copy. Revoke the token, then have the right one"
            " join again"
        )
        same = existing.filter(machine_id=vm.pk)
        if not same.update(text=text[:500], seen_at=clock.now()):
            Finding.objects.create(
                kind=FindingKind.TWIN,
                provider=REGISTRY,
                machine_id=vm.pk,
                vm_id=vm.pk,
                name=vm.name,
                text=text[:500],
                proposal=Proposal.REVOKE,
            )


def too_new() -> QuerySet[Machine]:
    """Return machines that are too new to be compared."""
    rows = Machine.objects.active().filter(known_since__gt=clock.now() - GRACE_PERIOD)
    coming = Provisioning.objects.filter(state__in=OPEN_STATES, machine__isnull=False)
    return rows.exclude(pk__in=coming.values("machine")).order_by("-id")


def _update_machines(slug: str, listed: dict[str, base.Machine]) -> None:
    """Update the rows of the listed machines, and create rows for unknown ones."""
    known = dict(Machine.objects.of(slug).values_list("machine_id", "gone_at"))
    for machine_id, seen in listed.items():
        if machine_id not in known and not seen.mine:
            continue
        if known.get(machine_id) is not None and not _reappeared(slug, machine_id):
            continue
        place = machine_id if Node.objects.filter(vm_id=machine_id).exists() else ""
        machines.record(slug, seen, vm_id="" if machine_id in known else place)


def _reappeared(slug: str, machine_id: str) -> bool:
    """Return whether a machine marked as gone is listed long enough after that.

    Deleting takes a moment, so an earlier listing is ignored.
    """
    row = Machine.objects.get(provider=slug, machine_id=machine_id)
    return row.gone_at is not None and clock.now() - row.gone_at >= GRACE_PERIOD


def _discrepancies(slug: str, listed: dict[str, base.Machine]) -> Iterator[Discrepancy]:
    now = clock.now()
    nodes = set(Node.objects.active().values_list("vm_id", flat=True))
    for machine in Machine.objects.of(slug).active().filter(known_since__lte=now - GRACE_PERIOD):
        if _is_coming(machine):
            continue
        seen = listed.get(machine.machine_id)
        if seen is None:
            yield from _vanished(machine, nodes)
        elif machine.vm_id not in nodes:
            yield _unknown_machine(machine)
        else:
            yield from _idle_machine(machine, seen)
    yield from _gone_but_in_tree(slug, listed, nodes)


def _is_coming(machine: Machine) -> bool:
    return Provisioning.objects.filter(machine=machine, state__in=OPEN_STATES).exists()


def _vanished(machine: Machine, nodes: set[str]) -> Iterator[Discrepancy]:
    """Yield a finding for a machine that its provider no longer lists, if the tree has it;
    otherwise mark it as gone.

    A list alone may briefly miss a machine, so the provider is also asked for this one.
    """
    try:
        providers.get(machine.provider).state(machine.machine_id)
    except NoSuchMachine:
        pass
    else:
        return
    if machine.vm_id in nodes:
        text = f"{machine.provider} does not list it any more, but the tree has it"
        yield Discrepancy(FindingKind.VANISHED, machine, text, Proposal.BURY)
    else:
        machines.mark_gone(machine, "its provider lists it no longer")


def _unknown_machine(machine: Machine) -> Discrepancy:
    row = Provisioning.objects.filter(machine=machine).order_by("-id").first()
    if row is None:
        text = "nobody here made it, and the tree does not have it"
    elif row.state == State.DONE:
        text = f"was a member (provisioning {row.pk}), but the tree does not have it any more"
    else:
        text = f"was left by provisioning {row.pk}, which {_ended(row)}"
    return Discrepancy(
        FindingKind.UNKNOWN, machine, text, Proposal.DELETE if row else Proposal.ADOPT
    )


def _ended(row: Provisioning) -> str:
    return "failed" if row.state == State.FAILED else "was cancelled"


def _idle_machine(machine: Machine, seen: base.Machine) -> Iterator[Discrepancy]:
    """Yield a finding for a machine that runs at its provider but has been silent for long."""
    if seen.state != base.MachineState.RUNNING:
        return
    vm = VM.objects.filter(pk=machine.vm_id).first()
    now = clock.now()
    if vm is not None and Watch.grace(now) and not _has_finding(FindingKind.USELESS, machine):
        # Reef itself was down, so no heartbeat could arrive.
        return
    if vm is not None and vm.status == Status.PAUSED:
        text = "runs at its provider, but is paused in the registry"
        yield Discrepancy(FindingKind.USELESS, machine, text, Proposal.PAUSE)
    elif any(machine.vm_id in ids([machine.vm_id]) for ids in used_vms):
        return
    elif vm is None or now - vm.last_seen > IDLE_AFTER:
        activity = "never registered (no fleet agent of ours runs there)"
        if vm is not None:
            status_text = (
                "" if vm.status == Status.RUNNING else f"is {vm.status} in the registry and "
            )
            activity = f"{status_text}was last heard of at {clock.format_timestamp(vm.last_seen)}"
        text = f"runs, but {activity}: it costs and serves nothing"
        yield Discrepancy(FindingKind.USELESS, machine, text, Proposal.DELETE)


def _has_finding(kind: FindingKind, machine: Machine) -> bool:
    """Return whether an open or dismissed finding of this kind exists for the machine."""
    existing = Finding.objects.filter(state__in=(FindingState.OPEN, FindingState.DISMISSED))
    return existing.filter(
        kind=kind, provider=machine.provider, machine_id=machine.machine_id
    ).exists()


def _gone_but_in_tree(
    slug: str, listed: dict[str, base.Machine], nodes: set[str]
) -> Iterator[Discrepancy]:
    """Yield findings for gone machines whose VMs are still in the tree."""
    gone = Machine.objects.of(slug).filter(~Q(vm_id=""), gone_at__lte=clock.now() - GRACE_PERIOD)
    here = Machine.objects.active().values_list("vm_id", flat=True)
    for machine in gone.filter(vm_id__in=nodes).exclude(vm_id__in=here):
        if machine.machine_id not in listed:
            text = f"is gone ({machine.note}), but the tree has it"
            yield Discrepancy(FindingKind.VANISHED, machine, text, Proposal.BURY)


def _record(slug: str, discrepancy: Discrepancy) -> None:
    now = clock.now()
    machine = discrepancy.machine
    fields = {"text": discrepancy.text[:500], "proposal": discrepancy.proposal, "seen_at": now}
    existing = Finding.objects.filter(
        kind=discrepancy.kind,
        provider=slug,
        machine_id=machine.machine_id,
        state__in=(FindingState.OPEN, FindingState.DISMISSED),
    )
    if existing.update(**fields):
        _mark_stopped(discrepancy, existing.values_list("found_at", flat=True).first())
        return
    try:
        with transaction.atomic():
            Finding.objects.create(
                kind=discrepancy.kind,
                provider=slug,
                machine_id=machine.machine_id,
                vm_id=machine.vm_id,
                name=machine.name,
                **fields,
            )
    except IntegrityError:
        existing.update(**fields)
    _mark_stopped(discrepancy, now)


def _mark_stopped(discrepancy: Discrepancy, found_at: datetime | None) -> None:
    """Mark a vanished VM as stopped, unless it sent a heartbeat after it was found missing."""
    if discrepancy.kind != FindingKind.VANISHED:
        return
    living = Machine.objects.active().filter(pk=discrepancy.machine.pk)
    living.update(state=VANISHED)
    if discrepancy.machine.vm_id:
        registry.mark_stopped(discrepancy.machine.vm_id, found_at)


# -- decisions -----------------------------------------------------------------------------------


def find(key: int) -> Finding:
    """Return the finding with this id. Raise NotFound."""
    row = Finding.objects.filter(pk=key).first()
    if row is None:
        raise NotFound("finding not found")
    return row


def allowed_actions(row: Finding) -> frozenset[Proposal]:
    """Return the actions allowed for the finding."""
    return ALLOWED_ACTIONS[FindingKind(row.kind)] | {Proposal(row.proposal)}


def act_on(
    rows: list[Finding], *, by: object, proposal: Proposal | None = None
) -> tuple[list[Finding], list[tuple[Finding, str]]]:
    """Act on several findings. Return the completed ones, and the failed ones with their reasons.

    Failed ones are retried as long as others succeed, because a VM can only be removed after its
    descendants. Raise Forbidden, BadInput.
    """
    permissions.check(by, "command", None)
    for row in rows:
        _check_allowed(row, proposal)
    done: list[Finding] = []
    left = [(row, "") for row in rows]
    while left:
        again: list[tuple[Finding, str]] = []
        for row, _ in left:
            try:
                done.append(act(row.pk, by=by, proposal=proposal))
            except ReefError as error:
                again.append((row, str(error)))
        if len(again) == len(left):
            break
        left = again
    return done, left


def _check_allowed(row: Finding, chosen: Proposal | None) -> None:
    fits = allowed_actions(row)
    if chosen is not None and chosen not in fits:
        valid = ", ".join(sorted(fits))
        text = f"action: '{chosen}' does not fit {row.get_kind_display()} {row.machine_id}"
        raise BadInput(f"{text}; valid: {valid}", "action")


def act(key: int, *, by: object, proposal: Proposal | None = None) -> Finding:
    """Carry out the proposal, or another allowed action. Only for the root token and operators.

    A failure leaves the finding open. Raise BadInput, Conflict, NotFound, ProviderError.
    """
    permissions.check(by, "command", None)
    row = find(key)
    _check_allowed(row, proposal)
    chosen = proposal or Proposal(row.proposal)
    if row.state not in (FindingState.OPEN, FindingState.DISMISSED):
        raise Conflict(f"finding {row.pk} is {row.get_state_display()} already")
    if chosen == Proposal.REVOKE:
        return _decide(row, FindingState.DONE, by, _revoke(row))
    machine = Machine.objects.filter(provider=row.provider, machine_id=row.machine_id).first()
    if machine is None:
        raise NotFound(f"machine '{row.machine_id}' is not known any more")
    _check_unchanged(row, machine, chosen)
    _carry_out(chosen, machine, by)
    outcome = ADOPTED_OUTCOME if chosen == Proposal.ADOPT else chosen.label
    return _decide(row, FindingState.DONE, by, outcome)


def _revoke(row: Finding) -> str:
    """Revoke the VM's token, so that neither machine can act as the VM until one of them joins
    again.
    """
    node = Node.objects.active().filter(vm_id=row.vm_id).first()
    if node is None:
        raise NotFound(f"VM '{row.vm_id}' is not in the tree, so it has no token of its own")
    tokens.revoke_all([node.pk])
    path = "POST /bootloader/generate"
    return f"its token was revoked; {path} with vmId '{row.vm_id}' gives a new join token"[:500]


def dismiss(key: int, *, by: object) -> Finding:
    """Leave the difference as it is; it is not reported again while it lasts.

    Raise Conflict, NotFound.
    """
    permissions.check(by, "command", None)
    row = find(key)
    if row.state == FindingState.DISMISSED:
        return row
    return _decide(row, FindingState.DISMISSED, by, "left as it is")


def _check_unchanged(row: Finding, machine: Machine, chosen: Proposal) -> None:
    """Raise Conflict if the situation has changed since the finding was recorded."""
    if _is_coming(machine):
        raise Conflict(f"{machine} is being provisioned again")
    if chosen != Proposal.DELETE:
        return
    vm = VM.objects.filter(pk=machine.vm_id).first() if machine.vm_id else None
    if vm is not None and vm.last_seen > row.seen_at and vm.status == Status.RUNNING:
        raise Conflict(f"{machine} was heard of since: {clock.format_timestamp(vm.last_seen)}")


def _carry_out(chosen: Proposal, machine: Machine, by: object) -> None:
    match chosen:
        case Proposal.DELETE:
            machines.delete(machine, by=by)
        case Proposal.BURY:
            machines.remove_vm(machine.vm_id, by=by)
            machines.mark_gone(machine, f"buried by {str(by)[:200]}")
        case Proposal.PAUSE:
            machines.pause(machine)
        case Proposal.ADOPT:
            machines.import_machine(machine, by=by)


def _decide(row: Finding, state: FindingState, by: object, outcome: str) -> Finding:
    fields = {
        "state": state,
        "decided_at": clock.now(),
        "decided_by": str(by)[:200],
        "outcome": outcome[:500],
    }
    if not Finding.objects.filter(pk=row.pk, state=row.state).update(**fields):
        raise Conflict(f"finding {row.pk} was decided by somebody else")
    row.refresh_from_db()
    return row
