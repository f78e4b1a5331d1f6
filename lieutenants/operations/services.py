"""What may be asked of operations: a plan, a job, its end."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from django.db import IntegrityError, transaction

from lieutenants.operations.models import (
    MISSED_STEPS,
    Job,
    JobState,
    Step,
    StepState,
    Verb,
)
from lieutenants.operations.plan import Line, Plan, plan_of
from reef_site.common import clock, database_locks
from reef_site.common.batches import BATCH_SIZE, batched
from reef_site.common.database_locks import DatabaseLock
from reef_site.common.dispatch import dispatch
from reef_site.common.errors import Conflict, NotFound
from reef_site.common.text import to_storable
from vmtree import permissions
from vmtree import services as tree
from vmtree.lineage import keys_above, keys_below
from vmtree.models import LINKS, Node
from vmtree.permissions import Action

CANCELLED = "the job was cancelled before"


def plan(verb: Verb, vm_id: str, *, by: object) -> Plan:
    """What the verb would do to this VM and everything below it. Raises NotFound, Forbidden."""
    top = tree.find(vm_id)
    permissions.check(by, Action.COMMAND, top)
    found = plan_of(verb, top)
    _check_starts(found, by)
    return found


def start(
    verb: Verb, vm_id: str, *, by: object, confirm: int | None = None, cause: str = ""
) -> tuple[Job, bool]:
    """Set a job to work; the job, and whether it is an earlier one that goes on.

    `confirm` is how many VMs are meant to be touched. A job of the same verb on the same VM that
    is open, failed or was cancelled goes on: what it missed is tried again, who came since joins.
    Raises NotFound, Forbidden, BadInput, Conflict.
    """
    top = tree.find(vm_id)
    permissions.check(by, Action.COMMAND, top)
    found = plan_of(verb, top)
    _check_starts(found, by)
    if confirm is not None and confirm != len(found.acting):
        count = len(found.acting)
        raise Conflict(f"confirm: {count} VMs would be touched, not {confirm}")
    try:
        with transaction.atomic():
            database_locks.lock(DatabaseLock.JOB_STARTS)
            job, continued = _job(found, top, str(by)[:200], cause)
            _write_steps(job, found)
            dispatch("operations.advance", job.pk)
    except IntegrityError:
        raise Conflict(f"another job on '{vm_id}' was begun just now") from None
    return job, continued


def cancel(job_id: str, *, by: object) -> Job:
    """Begin no further step of a job; what is under way comes to its end. Repeating is no error.

    Raises NotFound, Forbidden; Conflict if it came to its end by itself.
    """
    with transaction.atomic():
        job = find(job_id)
        top = Node.objects.filter(vm_id=job.vm_id).first()
        permissions.check(by, Action.COMMAND, top)
        open_ones = Job.objects.open().filter(pk=job.pk)
        if open_ones.update(state=JobState.CANCELLED, ended_at=clock.now()):
            waiting = job.steps.filter(state=StepState.WAITING)
            at = clock.now()
            waiting.update(state=StepState.CANCELLED, reason=CANCELLED, ended_at=at)
    job.refresh_from_db()
    if job.state != JobState.CANCELLED:
        raise Conflict(f"job {job.pk} ({job}) is {job.state}; there is nothing to cancel")
    return job


def find(job_id: str) -> Job:
    """The job of this id, or NotFound."""
    job = Job.objects.filter(pk=to_storable(job_id)).first()
    if job is None:
        raise NotFound("job not found")
    return job


# -- rules of the above --------------------------------------------------------------------------


def _check_starts(found: Plan, by: object) -> None:
    """Raise Forbidden if the plan starts a process that the caller may not start.

    A job runs later under reef's own name, so this is the place to refuse it.
    """
    if found.verb != Verb.RESUME or permissions.node_of(by) is None:
        return
    for line in found.acting:
        permissions.check(by, Action.START, line.vm_id)


def _job(found: Plan, top: Node, actor: str, cause: str) -> tuple[Job, bool]:
    """The earlier job that goes on, or a new one."""
    newest = Job.objects.select_for_update().filter(vm_id=top.vm_id).order_by("-id").first()
    _refuse_crossing(found.verb, top)
    if newest and newest.verb == found.verb and newest.state != JobState.DONE:
        # What came since the first time is in no snapshot of its: another one is taken.
        anew = {"state": JobState.OPEN, "ended_at": None, "reason": ""}
        if newest.state != JobState.OPEN:
            anew["snapshot"] = ""
        Job.objects.filter(pk=newest.pk).update(**anew)
        newest.refresh_from_db()
        return newest, True
    job = Job(verb=found.verb, vm_id=top.vm_id, name=top.name, actor=actor, cause=cause)
    job.save(force_insert=True)
    return job, False


def _refuse_crossing(verb: Verb, top: Node) -> None:
    """Two open jobs may not pull the same VM two ways. Raises Conflict."""
    others = {job.vm_id: job for job in Job.objects.open().exclude(verb=verb)}
    if not others:
        return
    family = keys_above(LINKS, top.pk) + keys_below(LINKS, top.pk)
    rows = Node.objects.filter(vm_id__in=others).values_list("pk", "vm_id")
    for key, vm_id in rows:
        if key in family:
            job = others[vm_id]
            raise Conflict(f"job {job.pk} ({job}) is at work there; cancel it or wait for its end")


def _write_steps(job: Job, found: Plan) -> None:
    """Bring the job's steps in line with the plan. What is running is left to itself."""
    known = {step.vm_id: step for step in job.steps.all()}
    new = [
        _new_step(job, position, line)
        for position, line in enumerate(found.lines)
        if line.vm_id not in known
    ]
    Step.objects.bulk_create(new, batch_size=BATCH_SIZE)
    if known:
        _renew(job, [(known[line.vm_id], line) for line in found.lines if line.vm_id in known])
        _end_those_gone(job, {line.vm_id for line in found.lines}, known.values())


def _new_step(job: Job, position: int, line: Line) -> Step:
    return Step(
        job=job,
        position=position,
        vm_id=line.vm_id,
        name=line.name,
        category=line.category,
        above=line.above,
        handler=line.handler,
        does=line.does,
        state=StepState.LEFT_OUT if line.left_out else StepState.WAITING,
        reason=line.left_out,
    )


def _renew(job: Job, pairs: list[tuple[Step, Line]]) -> None:
    """Steps as the plan has them now: to be done again, or left out; equal ones together."""
    changes: dict[tuple[tuple[str, Any], ...], list[int]] = {}
    for step, line in pairs:
        wanted: dict[str, Any] = {"does": line.does, "handler": line.handler, "above": line.above}
        if not line.left_out:
            wanted |= {"state": StepState.WAITING, "reason": "", "ended_at": None}
        elif step.state != StepState.DONE:
            wanted |= {"state": StepState.LEFT_OUT, "reason": line.left_out}
        if any(getattr(step, name) != value for name, value in wanted.items()):
            changes.setdefault(tuple(wanted.items()), []).append(step.pk)
    for wanted_now, ids in changes.items():
        for some in batched(ids):
            rows = job.steps.filter(pk__in=some).exclude(state=StepState.RUNNING)
            rows.update(**dict(wanted_now))


def _end_those_gone(job: Job, planned: set[str], known: Iterable[Step]) -> None:
    """Steps of VMs that are not below the top any more have nothing left to do."""
    open_states = {StepState.WAITING, *MISSED_STEPS}
    gone = [each.pk for each in known if each.vm_id not in planned and each.state in open_states]
    for some in batched(gone):
        rows = job.steps.filter(pk__in=some)
        rows.update(state=StepState.LEFT_OUT, reason="is not below it any more")
