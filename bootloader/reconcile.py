"""What providers have, against what reef knows: findings, acted on when one (or a rule) says so.

A finding stays as long as it is so; one that is not so any more settles itself, and one that was
dismissed is not brought up again while it is so.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db import IntegrityError, transaction
from django.db.models import Q, QuerySet

from bootloader import providers
from bootloader.exceptions import BadProviderKey, NoSuchMachine, ProviderError
from bootloader.models import Finding, Machine, Provisioning
from bootloader.providers import base
from bootloader.provisioning import machines
from bootloader.states import OPEN, FindingKind, FindingState, Proposal, State
from reef_site.common import clock
from reef_site.common.errors import BadInput, Conflict, NotFound, ReefError
from registry import services as registry
from registry.models import VM, Status, Watch
from vmtree import authority, tokens
from vmtree.models import Node

logger = logging.getLogger(__name__)

# A VM is not called unknown, vanished or useless before it had so long to find its place.
PATIENCE = timedelta(minutes=3)
# Without a beat for so long a running VM serves nothing.
SERVES_NOTHING = timedelta(minutes=30)
SKIPPED = (
    f"machines known for less than {int(PATIENCE.total_seconds() // 60)} minutes are not compared"
    " yet: they may still find their place"
)
# The "provider" of findings that the registry's own rows tell.
REGISTRY = "registry"
# Two machines with one identity are a finding until they took no turns for so long.
TWIN_FOR = timedelta(minutes=15)
# The state of a machine that its provider lists no longer.
VANISHED = "vanished"
# What may be done about each kind of finding; the proposal is always one of them.
FITS: dict[FindingKind, frozenset[Proposal]] = {
    FindingKind.UNKNOWN: frozenset({Proposal.ADOPT, Proposal.DELETE}),
    FindingKind.VANISHED: frozenset({Proposal.BURY}),
    FindingKind.USELESS: frozenset({Proposal.DELETE, Proposal.PAUSE}),
    FindingKind.TWIN: frozenset({Proposal.REVOKE}),
}
# Whoever takes a VM into the tree has only its place.
ADOPTED = (
    "taken into the tree; not in the registry until the boot script for it "
    "(POST /bootloader/generate with its vmId) has run there"
)


@dataclass(frozen=True)
class Odd:
    """Something that does not fit together now."""

    kind: FindingKind
    machine: Machine
    text: str
    proposal: Proposal


def look() -> int:
    """Look at every provider; how many findings are open. One that is away stops no other."""
    for slug in providers.all_slugs():
        try:
            look_at(slug)
        except BadProviderKey:
            logger.debug("%s has no good key, so nothing is compared", slug)
        except ProviderError as error:
            logger.info("%s cannot be compared with the fleet: %s", slug, error)
        except ReefError as error:
            logger.warning("%s cannot be compared with the fleet: %s", slug, error)
        except Exception:
            logger.exception("%s cannot be compared with the fleet", slug)
    look_for_twins()
    return Finding.objects.open().count()


def look_at(slug: str) -> None:
    """Compare one provider's list with the rows. Raises ProviderError."""
    listed = {seen.id: seen for seen in providers.get(slug).list()}
    _note(slug, listed)
    odd = list(_odd(slug, listed))
    for each in odd:
        _keep(slug, each)
    still = {(each.kind, each.machine.machine_id) for each in odd}
    held = Finding.objects.filter(
        provider=slug, state__in=(FindingState.OPEN, FindingState.DISMISSED)
    )
    for row in held:
        if (row.kind, row.machine_id) not in still:
            unchanged = Finding.objects.filter(pk=row.pk, state=row.state)
            unchanged.update(state=FindingState.SETTLED, decided_at=clock.now())


def look_for_twins() -> None:
    """Note VMs as which two machines send heartbeats in turn; `registry.beats` sees that."""
    since = clock.format_timestamp(clock.now() - TWIN_FOR)
    found = {vm.pk: vm for vm in VM.objects.filter(vitals__twinSeenAt__gte=since)}
    held = Finding.objects.filter(
        kind=FindingKind.TWIN, state__in=(FindingState.OPEN, FindingState.DISMISSED)
    )
    for row in held.exclude(vm_id__in=found):
        unchanged = Finding.objects.filter(pk=row.pk, state=row.state)
        unchanged.update(state=FindingState.SETTLED, decided_at=clock.now())
    for vm in found.values():
        machines_ = " and ".join(str(vm.vitals.get(name)) for name in ("machineBefore", "machine"))
        text = (
            f"machines {machines_} send heartbeats in turn as this VM, last seen at"
            f" {vm.vitals['twinSeenAt']}: one is a copy. Revoke the token, then have the right one"
            " join again"
        )
        same = held.filter(machine_id=vm.pk)
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


def young() -> QuerySet[Machine]:
    """Machines that were not compared, since they have had no time to find their place."""
    rows = Machine.objects.living().filter(known_since__gt=clock.now() - PATIENCE)
    coming = Provisioning.objects.filter(state__in=OPEN, machine__isnull=False)
    return rows.exclude(pk__in=coming.values("machine")).order_by("-id")


def _note(slug: str, listed: dict[str, base.Machine]) -> None:
    """Bring the rows of machines up to date; those that nobody knew become rows, too."""
    known = dict(Machine.objects.of(slug).values_list("machine_id", "gone_at"))
    for machine_id, seen in listed.items():
        if machine_id not in known and not seen.mine:
            continue
        if known.get(machine_id) is not None and not _came_back(slug, machine_id):
            continue
        place = machine_id if Node.objects.filter(vm_id=machine_id).exists() else ""
        machines.record(slug, seen, vm_id="" if machine_id in known else place)


def _came_back(slug: str, machine_id: str) -> bool:
    """A machine that was gone is listed: deleting takes a moment, so it gets some time."""
    row = Machine.objects.get(provider=slug, machine_id=machine_id)
    return row.gone_at is not None and clock.now() - row.gone_at >= PATIENCE


def _odd(slug: str, listed: dict[str, base.Machine]) -> Iterator[Odd]:
    now = clock.now()
    nodes = set(Node.objects.living().values_list("vm_id", flat=True))
    for machine in Machine.objects.of(slug).living().filter(known_since__lte=now - PATIENCE):
        if _is_coming(machine):
            continue
        seen = listed.get(machine.machine_id)
        if seen is None:
            yield from _vanished(machine, nodes)
        elif machine.vm_id not in nodes:
            yield _stranger(machine)
        else:
            yield from _useless(machine, seen)
    yield from _registered_only(slug, listed, nodes)


def _is_coming(machine: Machine) -> bool:
    return Provisioning.objects.filter(machine=machine, state__in=OPEN).exists()


def _vanished(machine: Machine, nodes: set[str]) -> Iterator[Odd]:
    """Its provider lists it no longer. Without a place in the tree that is all there is to say.

    A list alone may lack one for a moment, so its provider is asked for this one, too.
    """
    try:
        providers.get(machine.provider).state(machine.machine_id)
    except NoSuchMachine:
        pass
    else:
        return
    if machine.vm_id in nodes:
        text = f"{machine.provider} does not list it any more, but the tree has it"
        yield Odd(FindingKind.VANISHED, machine, text, Proposal.BURY)
    else:
        machines.gone(machine, "its provider lists it no longer")


def _stranger(machine: Machine) -> Odd:
    row = Provisioning.objects.filter(machine=machine).order_by("-id").first()
    if row is None:
        text = "nobody here made it, and the tree does not have it"
    elif row.state == State.DONE:
        text = f"was a member (provisioning {row.pk}), but the tree does not have it any more"
    else:
        text = f"was left by provisioning {row.pk}, which {_ended(row)}"
    return Odd(FindingKind.UNKNOWN, machine, text, Proposal.DELETE if row else Proposal.ADOPT)


def _ended(row: Provisioning) -> str:
    return "failed" if row.state == State.FAILED else "was cancelled"


def _useless(machine: Machine, seen: base.Machine) -> Iterator[Odd]:
    """It costs and serves nothing: it runs, and nobody has heard of it for long."""
    if seen.state != base.MachineState.RUNNING:
        return
    vm = VM.objects.filter(pk=machine.vm_id).first()
    now = clock.now()
    if vm is not None and Watch.grace(now) and not _is_held(FindingKind.USELESS, machine):
        # Reef itself was away: nobody's heartbeat could be heard.
        return
    if vm is not None and vm.status == Status.PAUSED:
        text = "runs at its provider, but is paused in the registry"
        yield Odd(FindingKind.USELESS, machine, text, Proposal.PAUSE)
    elif vm is None or now - vm.last_seen > SERVES_NOTHING:
        heard = "never registered (no fleet agent of ours runs there)"
        if vm is not None:
            said = "" if vm.status == Status.RUNNING else f"is {vm.status} in the registry and "
            heard = f"{said}was last heard of at {clock.format_timestamp(vm.last_seen)}"
        text = f"runs, but {heard}: it costs and serves nothing"
        yield Odd(FindingKind.USELESS, machine, text, Proposal.DELETE)


def _is_held(kind: FindingKind, machine: Machine) -> bool:
    """Whether there is a finding of this kind about it already, decided or not."""
    held = Finding.objects.filter(state__in=(FindingState.OPEN, FindingState.DISMISSED))
    return held.filter(kind=kind, provider=machine.provider, machine_id=machine.machine_id).exists()


def _registered_only(slug: str, listed: dict[str, base.Machine], nodes: set[str]) -> Iterator[Odd]:
    """Machines that we know as gone, but whose VMs are still in the tree."""
    gone = Machine.objects.of(slug).filter(~Q(vm_id=""), gone_at__lte=clock.now() - PATIENCE)
    here = Machine.objects.living().values_list("vm_id", flat=True)
    for machine in gone.filter(vm_id__in=nodes).exclude(vm_id__in=here):
        if machine.machine_id not in listed:
            text = f"is gone ({machine.note}), but the tree has it"
            yield Odd(FindingKind.VANISHED, machine, text, Proposal.BURY)


def _keep(slug: str, odd: Odd) -> None:
    now = clock.now()
    machine = odd.machine
    fields = {"text": odd.text[:500], "proposal": odd.proposal, "seen_at": now}
    held = Finding.objects.filter(
        kind=odd.kind,
        provider=slug,
        machine_id=machine.machine_id,
        state__in=(FindingState.OPEN, FindingState.DISMISSED),
    )
    if held.update(**fields):
        _does_not_run(odd, held.values_list("found_at", flat=True).first())
        return
    try:
        with transaction.atomic():
            Finding.objects.create(
                kind=odd.kind,
                provider=slug,
                machine_id=machine.machine_id,
                vm_id=machine.vm_id,
                name=machine.name,
                **fields,
            )
    except IntegrityError:
        held.update(**fields)
    _does_not_run(odd, now)


def _does_not_run(odd: Odd, found_at: datetime | None) -> None:
    """What vanished is not said to run, unless it was heard of after that was found."""
    if odd.kind != FindingKind.VANISHED:
        return
    living = Machine.objects.living().filter(pk=odd.machine.pk)
    living.update(state=VANISHED)
    if odd.machine.vm_id:
        registry.mark_stopped(odd.machine.vm_id, found_at)


# -- what an operator says -----------------------------------------------------------------------


def find(key: int) -> Finding:
    """The finding of this number, or NotFound."""
    row = Finding.objects.filter(pk=key).first()
    if row is None:
        raise NotFound("finding not found")
    return row


def fitting(row: Finding) -> frozenset[Proposal]:
    """What may be done about it."""
    return FITS[FindingKind(row.kind)] | {Proposal(row.proposal)}


def act_on(
    rows: list[Finding], *, by: object, proposal: Proposal | None = None
) -> tuple[list[Finding], list[tuple[Finding, str]]]:
    """Act on each; those that were done, and the others with why not.

    A VM that others stand below is buried after those. Raises Forbidden, BadInput.
    """
    authority.check(by, "command", None)
    for row in rows:
        _check_fits(row, proposal)
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


def _check_fits(row: Finding, chosen: Proposal | None) -> None:
    fits = fitting(row)
    if chosen is not None and chosen not in fits:
        valid = ", ".join(sorted(fits))
        text = f"action: '{chosen}' does not fit {row.get_kind_display()} {row.machine_id}"
        raise BadInput(f"{text}; valid: {valid}", "action")


def act(key: int, *, by: object, proposal: Proposal | None = None) -> Finding:
    """Do what is proposed, or another thing that fits.

    Raises BadInput, Conflict, NotFound, ProviderError.

    Only for the root token and operators. What fails leaves the finding open.
    """
    authority.check(by, "command", None)
    row = find(key)
    _check_fits(row, proposal)
    chosen = proposal or Proposal(row.proposal)
    if row.state not in (FindingState.OPEN, FindingState.DISMISSED):
        raise Conflict(f"finding {row.pk} is {row.get_state_display()} already")
    if chosen == Proposal.REVOKE:
        return _decide(row, FindingState.DONE, by, _revoke(row))
    machine = Machine.objects.filter(provider=row.provider, machine_id=row.machine_id).first()
    if machine is None:
        raise NotFound(f"machine '{row.machine_id}' is not known any more")
    _check_still(row, machine, chosen)
    _do(chosen, machine, by)
    outcome = ADOPTED if chosen == Proposal.ADOPT else chosen.label
    return _decide(row, FindingState.DONE, by, outcome)


def _revoke(row: Finding) -> str:
    """Neither machine acts as the VM any more; the one that gets a new join token may."""
    node = Node.objects.living().filter(vm_id=row.vm_id).first()
    if node is None:
        raise NotFound(f"VM '{row.vm_id}' is not in the tree, so it has no token of its own")
    tokens.revoke_all([node.pk])
    path = "POST /bootloader/generate"
    return f"its token was revoked; {path} with vmId '{row.vm_id}' gives a new join token"[:500]


def dismiss(key: int, *, by: object) -> Finding:
    """Leave it as it is; it is not brought up again while it is so. Raises Conflict, NotFound."""
    authority.check(by, "command", None)
    row = find(key)
    if row.state == FindingState.DISMISSED:
        return row
    return _decide(row, FindingState.DISMISSED, by, "left as it is")


def _check_still(row: Finding, machine: Machine, chosen: Proposal) -> None:
    """What was true when the finding was made may be wrong by now. Raises Conflict."""
    if _is_coming(machine):
        raise Conflict(f"{machine} is being provisioned again")
    if chosen != Proposal.DELETE:
        return
    vm = VM.objects.filter(pk=machine.vm_id).first() if machine.vm_id else None
    if vm is not None and vm.last_seen > row.seen_at and vm.status == Status.RUNNING:
        raise Conflict(f"{machine} was heard of since: {clock.format_timestamp(vm.last_seen)}")


def _do(chosen: Proposal, machine: Machine, by: object) -> None:
    match chosen:
        case Proposal.DELETE:
            machines.delete(machine, by=by)
        case Proposal.BURY:
            machines.bury(machine.vm_id, by=by)
            machines.gone(machine, f"buried by {str(by)[:200]}")
        case Proposal.PAUSE:
            machines.pause(machine)
        case Proposal.ADOPT:
            machines.adopt(machine, by=by)


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
