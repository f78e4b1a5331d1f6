"""Start, retry, cancel and list provisionings.

Rows are written first, tasks dispatched on commit.
"""

from __future__ import annotations

from dataclasses import dataclass

from django.db import IntegrityError, transaction
from django.db.models import QuerySet

from bootloader import providers
from bootloader.grants import services as grants
from bootloader.models import BootStep, LogLine, Machine, Provisioning
from bootloader.provisioning import quota
from bootloader.provisioning.requests import ProvisionRequest
from bootloader.states import (
    RETRY_FROM,
    STEPS_WITHOUT_PROFILE,
    CleanupPolicy,
    State,
    StepName,
    StepState,
)
from reef_site.common import database_locks, events
from reef_site.common.database_locks import DatabaseLock
from reef_site.common.dispatch import dispatch
from reef_site.common.errors import BadInput, Conflict, Forbidden, NotFound
from reef_site.common.text import to_storable
from versconfig import config
from vmtree import permissions
from vmtree.models import Node


@dataclass(frozen=True)
class Started:
    """Provisionings in the order of their names; `existing` if an earlier request made them."""

    rows: list[Provisioning]
    existing: bool


def start(vm_request: ProvisionRequest, *, by: object, key: str = "") -> Started:
    """Start provisionings. The same key, or the same names, return the existing rows.

    Raise BadInput, Conflict, Forbidden, NotFound.
    """
    vm_request, parent = resolve_placement(vm_request, by)
    if known := _existing(vm_request, str(by)[:200], key):
        return Started(known, existing=True)
    try:
        with transaction.atomic():
            database_locks.lock(DatabaseLock.PROVISIONING_STARTS)
            quota.check_quota(len(vm_request.names()), parent)
            grants.draw(by, len(vm_request.names()))
            rows = _create_rows(vm_request, by, key)
            dispatch("bootloader.begin")
    except IntegrityError:
        # A concurrent request created the same names.
        if known := _existing(vm_request, str(by)[:200], key):
            return Started(known, existing=True)
        raise Conflict(f"name: some of {vm_request.name}… are taken") from None
    for row in rows:
        events.publish_provisionings([row.pk])
    return Started(rows, existing=False)


def resolve_placement(
    vm_request: ProvisionRequest, by: object
) -> tuple[ProvisionRequest, Node | None]:
    """Return the request with its parent and provider filled in, and the parent's node.

    Raise BadInput, Forbidden, UnknownProvider and the errors of config.
    """
    is_operator = permissions.is_operator(by)
    if vm_request.roof_url and not is_operator:
        # Join tokens are sent to this address.
        raise Forbidden("roofReefUrl: is for the root token and operators")
    if vm_request.commit and not is_operator:
        # A saved machine contains data of another VM.
        raise Forbidden("commitId: is for the root token and operators")
    home = permissions.home_of(by)
    parent_id = vm_request.parent_vm_id or (home.vm_id if home else "")
    parent = Node.objects.active().filter(vm_id=parent_id).first() if parent_id else None
    if parent_id and parent is None:
        raise BadInput(f"parent VM '{parent_id}' not found", "parentVmId")
    grants.check(by, vm_request.profile, parent)
    slug = vm_request.provider or config.text("REEF_VM_PROVIDER", parent)
    providers.get(slug)
    return _with_placement(vm_request, parent_id, slug), parent


def _with_placement(
    vm_request: ProvisionRequest, parent_id: str, provider: str
) -> ProvisionRequest:
    changed = {"parent_vm_id": parent_id, "provider": provider}
    return ProvisionRequest(**{**vars(vm_request), **changed})


def _existing(vm_request: ProvisionRequest, actor: str, key: str) -> list[Provisioning]:
    """Return the rows of an equal earlier request. Raise Conflict if it was a different one."""
    if key:
        rows = list(Provisioning.objects.filter(actor=actor, key=key).order_by("position"))
        if (
            rows
            and [row.name for row in rows] == vm_request.names()
            and _is_same_request(rows[0], vm_request)
        ):
            return rows
        if rows:
            raise Conflict("Idempotency-Key: was used for another request")
    names = vm_request.names()
    rows = list(
        Provisioning.objects.reserving_names().filter(name__in=names).order_by("position", "id")
    )
    if not rows:
        return []
    if len(rows) == len(names) and all(_is_same_request(row, vm_request) for row in rows):
        return rows
    failed = next((row for row in rows if row.state == State.FAILED), None)
    if failed is not None:
        path = f"/bootloader/provisionings/{failed.pk}"
        text = f"name: '{failed.name}' is held by provisioning {failed.pk}, which failed"
        raise Conflict(f"{text}: retry it (POST {path}/retry) or cancel it (POST {path}/cancel)")
    taken = rows[0]
    raise Conflict(f"name: '{taken.name}' is {taken.state} as provisioning {taken.pk}")


def _is_same_request(row: Provisioning, vm_request: ProvisionRequest) -> bool:
    alike = (row.profile, row.provider, row.parent_vm_id, row.on_failure, row.wish)
    return alike == (
        vm_request.profile,
        vm_request.provider,
        vm_request.parent_vm_id,
        vm_request.on_failure,
        vm_request.stored(),
    )


def _create_rows(vm_request: ProvisionRequest, by: object, key: str) -> list[Provisioning]:
    batch, actor = "", str(by)[:200]
    rows = []
    for position, name in enumerate(vm_request.names()):
        row = Provisioning(
            name=name,
            profile=vm_request.profile,
            provider=vm_request.provider,
            parent_vm_id=vm_request.parent_vm_id,
            wish=vm_request.stored(),
            on_failure=vm_request.on_failure,
            actor=actor,
            asked_by_node=not permissions.is_operator(by),
            key=key,
            position=position,
        )
        batch = row.batch = batch or row.pk
        row.save(force_insert=True)
        rows.append(row)
    _create_steps(rows, actor)
    return rows


def _create_steps(rows: list[Provisioning], actor: str) -> None:
    BootStep.objects.bulk_create(
        BootStep(provisioning=row, position=position, name=name)
        for row in rows
        for position, name in enumerate(StepName if row.profile else STEPS_WITHOUT_PROFILE)
    )
    LogLine.objects.bulk_create(
        LogLine(provisioning=row, kind=LogLine.Kind.STATE, text=f"queued by {actor}")
        for row in rows
    )
    for row in rows:
        row.record(actor)


def repeat(old: Provisioning, *, by: object) -> Provisioning:
    """Start another provisioning like one whose VM is gone. Raise Conflict if its name is taken."""
    copied = ("name", "profile", "provider", "parent_vm_id", "wish", "on_failure", "asked_by_node")
    actor = str(by)[:200]
    row = Provisioning(actor=actor, **{name: getattr(old, name) for name in copied})
    row.batch = row.pk
    try:
        with transaction.atomic():
            database_locks.lock(DatabaseLock.PROVISIONING_STARTS)
            quota.check_quota(1, _parent_of(old))
            row.save(force_insert=True)
            _create_steps([row], actor)
            dispatch("bootloader.begin")
    except IntegrityError:
        raise Conflict(f"name: '{old.name}' is taken") from None
    events.publish_provisionings([row.pk])
    return row


# -- retry, cancel, list -------------------------------------------------------------------------


def find(provisioning_id: str) -> Provisioning:
    """Return the provisioning with this id. Raise NotFound."""
    rows = Provisioning.objects.without_texts()
    row = rows.filter(pk=to_storable(provisioning_id)).first()
    if row is None:
        raise NotFound("provisioning not found")
    return row


def may_command(row: Provisioning, by: object) -> None:
    """Raise Forbidden unless the caller may command the VM being provisioned."""
    if permissions.is_operator(by):
        return
    node = Node.objects.filter(vm_id=row.vm_id).first() if row.vm_id else None
    if node is not None:
        permissions.check(by, "command", node)
    else:
        permissions.check(by, "write", row.parent_vm_id or None)


def retry(provisioning_id: str, *, by: object) -> Provisioning:
    """Continue from the failed step. Raise NotFound, Forbidden, IllegalMove."""
    with transaction.atomic():
        row = find(provisioning_id)
        may_command(row, by)
        # A retry may make a new VM in place of one that is gone.
        grants.check(by, row.profile, _parent_of(row))
        if row.state in (State.QUEUED, State.RUNNING):
            return row
        by_node = row.asked_by_node or not permissions.is_operator(by)
        reason = f"again, by {str(by)[:200]}"
        row.move(State.QUEUED, reason, actor=by, look_at=None, asked_by_node=by_node)
        _reset_steps(row)
        dispatch("bootloader.begin")
        events.publish_provisionings([row.pk])
    return row


def _parent_of(row: Provisioning) -> Node | None:
    return Node.objects.filter(vm_id=row.parent_vm_id).first() if row.parent_vm_id else None


def _reset_steps(row: Provisioning) -> None:
    """Reset the failed step, and the earlier steps that it depends on."""
    failed = row.steps.exclude(state=StepState.DONE).order_by("position").first()
    if failed is None:
        return
    first = StepName(failed.name)
    if row.machine is None or row.machine.is_gone:
        first = min(first, StepName.CREATE, key=list(StepName).index)
    first = RETRY_FROM.get(first, first)
    again = row.steps.filter(position__gte=list(StepName).index(first))
    for step in again.exclude(state=StepState.WAITING):
        if step.state == StepState.RUNNING:
            step.move(StepState.FAILED, "was cut off")
        step.move(StepState.WAITING)


def cancel(provisioning_id: str, cleanup: CleanupPolicy | None, *, by: object) -> Provisioning:
    """Cancel it and keep or delete its VM. Repeating it is not an error.

    The policy may be omitted while there is no VM; one that is just being created is deleted then.
    Raise NotFound, Forbidden, BadInput, and Conflict for a completed provisioning.
    """
    with transaction.atomic():
        row = find(provisioning_id)
        may_command(row, by)
        if row.state in (State.CANCELLING, State.CANCELLED):
            return row
        if row.state == State.DONE:
            text = f"'{row.name}' is a member of the fleet: destroy VM '{row.vm_id}' instead"
            raise Conflict(text)
        if cleanup is None and row.machine is not None and not row.machine.is_gone:
            raise BadInput("machine: say what becomes of the VM: keep or delete", "machine")
        cleanup = cleanup or CleanupPolicy.DELETE
        word = "deleted" if cleanup == CleanupPolicy.DELETE else "kept"
        reason = f"by {str(by)[:200]}"
        if row.machine is not None and not row.machine.is_gone:
            reason += f"; its VM is to be {word}"
        row.move(State.CANCELLING, reason, actor=by, on_failure=cleanup, look_at=None)
        dispatch("bootloader.advance", row.pk)
        events.publish_provisionings([row.pk])
    return row


def log_of(row: Provisioning, after: int = 0, limit: int = 500) -> list[LogLine]:
    """Return the lines after this id, oldest first."""
    return list(row.log.filter(pk__gt=after).order_by("id")[:limit])


def log_tail(row: Provisioning, limit: int = 300) -> list[LogLine]:
    """Return the newest lines, oldest first."""
    return list(row.log.order_by("-id")[:limit])[::-1]


def list_provisionings(*, state: str = "", words: str = "") -> QuerySet[Provisioning]:
    """Return provisionings, newest first, with machines and steps prefetched."""
    found = Provisioning.objects.without_texts().prefetch_related("steps")
    if state:
        found = found.filter(state=state)
    if words:
        found = found.filter(name__icontains=words)
    return found.order_by("-id")


def machine_of(vm_id: str) -> Machine | None:
    """Return the machine behind a VM of the tree, if a provider has one."""
    return Machine.objects.active().filter(vm_id=vm_id).first() if vm_id else None
