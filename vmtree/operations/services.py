"""Use cases of operations: show a plan, start a job, cancel a job."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from django.db import IntegrityError, transaction

from reef_site.common import clock, database_locks, events
from reef_site.common.batches import BATCH_SIZE, batched
from reef_site.common.database_locks import DatabaseLock
from reef_site.common.dispatch import dispatch
from reef_site.common.errors import Conflict, NotFound
from reef_site.common.text import to_storable
from vmtree import permissions, removal
from vmtree import services as tree
from vmtree.lineage import ancestor_keys, descendant_keys
from vmtree.models import LINKS, Node
from vmtree.operations.models import (
    MISSED_STEPS,
    Job,
    JobState,
    Operation,
    Step,
    StepState,
)
from vmtree.operations.plan import Plan, PlannedStep, make_plan
from vmtree.permissions import Action

CANCELLED = "the job was cancelled before"


def plan(verb: Operation, vm_id: str, *, by: object) -> Plan:
    """Return the plan for a VM and its descendants. Raises NotFound, Forbidden."""
    top = tree.find(vm_id)
    permissions.check(by, _action_of(verb), top)
    new_plan = make_plan(verb, top)
    _check_start_permission(new_plan, by)
    return new_plan


def start(
    verb: Operation,
    vm_id: str,
    *,
    by: object,
    confirm: int | None = None,
    cause: str = "",
    snapshot: str = "",
) -> tuple[Job, bool]:
    """Start or continue a job; return it, and whether an earlier job was continued.

    `confirm` is the number of VMs that the caller expects to change. `snapshot` is the file of one
    that was taken just now, for several jobs that begin together. A job of the same operation on
    the same VM that is not done is continued: its missed steps are retried, new descendants are
    added. Raises NotFound, Forbidden, BadInput, Conflict.
    """
    top = tree.find(vm_id)
    permissions.check(by, _action_of(verb), top)
    new_plan = make_plan(verb, top)
    _check_start_permission(new_plan, by)
    if confirm is not None and confirm != len(new_plan.changed_steps):
        count = len(new_plan.changed_steps)
        raise Conflict(f"confirm: {count} VMs would be touched, not {confirm}")
    try:
        with transaction.atomic():
            database_locks.lock(DatabaseLock.JOB_STARTS)
            job, continued = _continued_or_new_job(new_plan, top, str(by)[:200], cause)
            if snapshot:
                Job.objects.filter(pk=job.pk).update(snapshot=snapshot)
            _write_steps(job, new_plan)
            dispatch("operations.advance", job.pk)
    except IntegrityError:
        raise Conflict(f"another job on '{vm_id}' was begun just now") from None
    return job, continued


def cancel(job_id: str, *, by: object) -> Job:
    """Cancel a job; running steps finish. Cancelling twice is not an error.

    Raises NotFound, Forbidden, and Conflict if the job has ended by itself.
    """
    with transaction.atomic():
        job = find(job_id)
        top = Node.objects.filter(vm_id=job.vm_id).first()
        permissions.check(by, Action.COMMAND, top)
        if job.end(JobState.CANCELLED, reason=job.reason, actor=str(by)[:200]):
            waiting = job.steps.filter(state=StepState.WAITING)
            at = clock.now()
            waiting.update(state=StepState.CANCELLED, reason=CANCELLED, ended_at=at)
    job.refresh_from_db()
    if job.state != JobState.CANCELLED:
        raise Conflict(f"job {job.pk} ({job}) is {job.state}; there is nothing to cancel")
    return job


def find(job_id: str) -> Job:
    """Return the job with this id. Raises NotFound."""
    job = Job.objects.filter(pk=to_storable(job_id)).first()
    if job is None:
        raise NotFound("job not found")
    return job


def remove_vm(vm_id: str, actor: str) -> None:
    """Remove a destroyed VM from the tree and the registry. Does nothing if it is removed already.

    Raises BadInput while the VM has active children.
    """
    with transaction.atomic():
        # Another worker may remove it at the same time.
        with suppress(NotFound):
            tree.remove(vm_id, by=actor)
        removal.follow([vm_id])
        events.publish_nodes([vm_id])


# -- helpers -------------------------------------------------------------------------------------


def _action_of(verb: Operation) -> Action:
    return Action.DESTROY if verb == Operation.DESTROY else Action.COMMAND


def _check_start_permission(new_plan: Plan, by: object) -> None:
    """Raise Forbidden if the plan starts a process that the caller may not start.

    A job runs later under reef's own name, so the check has to happen here.
    """
    if new_plan.verb != Operation.RESUME or permissions.node_of(by) is None:
        return
    for planned in new_plan.changed_steps:
        permissions.check(by, Action.START, planned.vm_id)


def _continued_or_new_job(new_plan: Plan, top: Node, actor: str, cause: str) -> tuple[Job, bool]:
    """Return the job to continue, or a new one, and whether it is continued."""
    newest = Job.objects.select_for_update().filter(vm_id=top.vm_id).order_by("-id").first()
    _check_no_overlap(new_plan.verb, top)
    if newest and newest.verb == new_plan.verb and newest.state != JobState.DONE:
        # VMs that were added since are in none of its snapshots, so another one is taken.
        anew = {"state": JobState.OPEN, "ended_at": None, "reason": ""}
        if newest.state != JobState.OPEN:
            anew["snapshot"] = ""
        Job.objects.filter(pk=newest.pk).update(**anew)
        newest.refresh_from_db()
        newest.record(JobState.OPEN, actor=actor)
        return newest, True
    job = Job(verb=new_plan.verb, vm_id=top.vm_id, name=top.name, actor=actor, cause=cause)
    job.save(force_insert=True)
    job.record(JobState.OPEN, actor=actor)
    return job, False


def _check_no_overlap(verb: Operation, top: Node) -> None:
    """Raise Conflict if an open job with another operation overlaps this subtree."""
    others = {job.vm_id: job for job in Job.objects.open().exclude(verb=verb)}
    if not others:
        return
    family = ancestor_keys(LINKS, top.pk) + descendant_keys(LINKS, top.pk)
    rows = Node.objects.filter(vm_id__in=others).values_list("pk", "vm_id")
    for key, vm_id in rows:
        if key in family:
            job = others[vm_id]
            raise Conflict(f"job {job.pk} ({job}) is at work there; cancel it or wait for its end")


def _write_steps(job: Job, new_plan: Plan) -> None:
    """Create, update and end the steps of a job to match the plan. Running steps stay unchanged."""
    known = {step.vm_id: step for step in job.steps.all()}
    new = [
        _new_step(job, position, planned)
        for position, planned in enumerate(new_plan.steps)
        if planned.vm_id not in known
    ]
    Step.objects.bulk_create(new, batch_size=BATCH_SIZE)
    if known:
        _update_steps(
            job,
            [
                (known[planned.vm_id], planned)
                for planned in new_plan.steps
                if planned.vm_id in known
            ],
        )
        _leave_out_removed(job, {planned.vm_id for planned in new_plan.steps}, known.values())


def _new_step(job: Job, position: int, planned: PlannedStep) -> Step:
    return Step(
        job=job,
        position=position,
        vm_id=planned.vm_id,
        name=planned.name,
        category=planned.category,
        above=planned.above,
        handler=planned.handler,
        does=planned.does,
        state=StepState.LEFT_OUT if planned.left_out else StepState.WAITING,
        reason=planned.left_out,
    )


def _update_steps(job: Job, pairs: list[tuple[Step, PlannedStep]]) -> None:
    """Update existing steps to match the plan; steps with equal changes share one query."""
    changes: dict[tuple[tuple[str, Any], ...], list[int]] = {}
    for step, planned in pairs:
        wanted: dict[str, Any] = {
            "does": planned.does,
            "handler": planned.handler,
            "above": planned.above,
        }
        if not planned.left_out:
            wanted |= {"state": StepState.WAITING, "reason": "", "ended_at": None}
        elif step.state != StepState.DONE:
            wanted |= {"state": StepState.LEFT_OUT, "reason": planned.left_out}
        if any(getattr(step, name) != value for name, value in wanted.items()):
            changes.setdefault(tuple(wanted.items()), []).append(step.pk)
    for wanted_now, ids in changes.items():
        for some in batched(ids):
            rows = job.steps.filter(pk__in=some).exclude(state=StepState.RUNNING)
            rows.update(**dict(wanted_now))


def _leave_out_removed(job: Job, planned_ids: set[str], known: Iterable[Step]) -> None:
    """Leave out the open steps of VMs that are not below the top VM any more."""
    open_states = {StepState.WAITING, *MISSED_STEPS}
    gone = [
        each.pk for each in known if each.vm_id not in planned_ids and each.state in open_states
    ]
    for some in batched(gone):
        rows = job.steps.filter(pk__in=some)
        rows.update(state=StepState.LEFT_OUT, reason="is not below it any more")
