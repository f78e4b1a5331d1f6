"""Runs jobs: picks the next steps, checks the running ones and ends the job.

`advance` finds steps, `act` runs them; both may run twice, late or never. The lease of a job admits
one `advance` at a time. Steps are claimed one by one; the step of a dead worker becomes free when
its lease expires.
"""

from __future__ import annotations

import logging
from datetime import datetime, timedelta

from django.db.models import Q

from reef_site.common import clock, events
from reef_site.common.batches import batched
from reef_site.common.dispatch import dispatch
from reef_site.common.errors import ReefError
from reef_site.common.leases import is_leased
from vmtree import snapshots
from vmtree.operations import handlers, services
from vmtree.operations.models import (
    MISSED_STEPS,
    Job,
    JobState,
    Operation,
    Step,
    StepState,
)
from vmtree.snapshot_models import Why

logger = logging.getLogger(__name__)

# Steps of one job that run at the same time, and steps in one task.
MAX_RUNNING_STEPS = 8
STEPS_PER_TASK = 4
JOB_LEASE = timedelta(seconds=30)
# A step is retried when its worker has been silent for this long.
STEP_LEASE = timedelta(seconds=30)
MAX_ATTEMPTS = 3
# How long a VM may take to finish an operation.
STEP_TIMEOUT = timedelta(seconds=90)
RECHECK_INTERVAL = timedelta(seconds=1)
# Reason of a job that is done without having changed a VM.
NOTHING_DONE = "nothing was done: every VM was left out, each for the reason that its step tells"


def advance(job_id: str) -> None:
    """Advance a job once and schedule its next steps, unless another worker holds its lease."""
    job = Job.objects.claim(job_id, JOB_LEASE)
    if job is None:
        return
    try:
        at_work = _take_snapshot(job) and _advance(job)
    finally:
        Job.objects.release(job.pk, job.leased_until)
    if at_work:
        _schedule_recheck(job)


def act(step_ids: list[int]) -> None:
    """Run those of the steps that are still waiting, then schedule `advance` for their jobs."""
    job_ids = set()
    for step_id in step_ids:
        step = Step.objects.claim(step_id, STEP_LEASE)
        if step:
            job_ids.add(step.job_id)
            _run_step(step)
    for job_id in job_ids:
        dispatch("operations.advance", job_id)


def tick() -> None:
    """Schedule `advance` for every open job, in case an earlier task was lost."""
    for job_id in Job.objects.open().order_by("id").values_list("pk", flat=True)[:500]:
        dispatch("operations.advance", job_id)
    _check_cancelled_jobs()


def _check_cancelled_jobs() -> None:
    """Check the steps that were running when their job was cancelled."""
    now = clock.now()
    cancelled = Job.objects.filter(state=JobState.CANCELLED, ended_at__gte=now - 10 * STEP_TIMEOUT)
    running = Step.objects.filter(job__in=cancelled, state=StepState.RUNNING)
    for step in running.select_related("job")[:500]:
        _check_step(step, now)


# -- jobs ----------------------------------------------------------------------------------------


def _take_snapshot(job: Job) -> bool:
    """Take a snapshot before anything is destroyed. Without a snapshot, fail the job."""
    if job.verb != Operation.DESTROY or job.snapshot:
        return True
    try:
        taken = snapshots.take(by=f"job {job.pk}", why=Why.CHANGE).snapshot
    except (ReefError, OSError) as error:
        reason = f"nothing was destroyed, for there could be no snapshot before: {error}"
        logger.warning("job %s: %s", job.pk, reason)
        job.end(JobState.FAILED, reason=reason)
        return False
    job.snapshot = taken.file
    Job.objects.filter(pk=job.pk).update(snapshot=job.snapshot)
    return True


def _advance(job: Job) -> bool:
    """Check running steps, block others, start free ones. Return whether the job is still open."""
    now = clock.now()
    under_way = list(job.steps.filter(state=StepState.RUNNING).select_related("job"))
    for step in under_way:
        _check_step(step, now)
    _block_dependents(job)
    running = sum(step.state == StepState.RUNNING for step in under_way)
    _dispatch_ready_steps(job, MAX_RUNNING_STEPS - running)
    return not _end_if_finished(job)


def _dispatch_ready_steps(job: Job, free: int) -> None:
    """Schedule as many ready steps as there are free slots."""
    if free <= 0:
        return
    ready = job.steps.ready(Operation(job.verb)).order_by("position")
    ids = list(ready.values_list("pk", flat=True)[:free])
    for batch in batched(ids, STEPS_PER_TASK):
        dispatch("operations.act", batch)


def _end_if_finished(job: Job) -> bool:
    """End the job if no step is left to run. Return whether it has ended."""
    if job.steps.unfinished().exists():
        return not Job.objects.open().filter(pk=job.pk).exists()
    missed = job.steps.filter(state__in=MISSED_STEPS).exists()
    state = JobState.FAILED if missed else JobState.DONE
    did_nothing = not missed and not job.steps.filter(state=StepState.DONE).exists()
    reason = NOTHING_DONE if did_nothing else ""
    job.end(state, reason=reason)
    events.publish_nodes([job.vm_id])
    return True


def _schedule_recheck(job: Job) -> None:
    """Schedule another `advance`, unless one is scheduled already."""
    now = clock.now()
    not_scheduled = Q(look_at__isnull=True) | Q(look_at__lte=now)
    if Job.objects.open().filter(not_scheduled, pk=job.pk).update(look_at=now + RECHECK_INTERVAL):
        dispatch("operations.advance", job.pk, countdown=RECHECK_INTERVAL.total_seconds())


def _block_dependents(job: Job) -> None:
    """Block waiting steps that depend on a failed or blocked step, directly or indirectly."""
    verb = Operation(job.verb)
    missed = job.steps.filter(state__in=MISSED_STEPS)
    if not verb.needs_relatives or not missed.exists():
        return
    rows = job.steps.order_by("position").values_list("pk", "vm_id", "above", "state", "name")
    reasons: dict[str, str] = {}
    blocked: dict[int, str] = {}
    # In plan order, a step comes after all steps that it depends on.
    for pk, vm_id, above, state, name in rows:
        if not verb.leaves_first and above in reasons:
            reasons.setdefault(vm_id, reasons[above])
        if state == StepState.FAILED:
            reasons[vm_id] = f"could not {verb} '{name or vm_id}'"
        if state == StepState.WAITING and vm_id in reasons:
            blocked[pk] = reasons[vm_id]
        if verb.leaves_first and vm_id in reasons and above:
            reasons.setdefault(above, reasons[vm_id])
    for pk, reason in blocked.items():
        waiting = job.steps.filter(pk=pk, state=StepState.WAITING)
        waiting.update(state=StepState.BLOCKED, reason=reason, ended_at=clock.now())


# -- steps ---------------------------------------------------------------------------------------


def _run_step(step: Step) -> None:
    """Start the operation on the VM; mark the step done if it finishes at once."""
    try:
        handler = handlers.get_handler(step.handler)
        handler.act(Operation(step.job.verb), step.vm_id, step.job.actor)
    except ReefError as error:
        step.end(StepState.FAILED, str(error))
    except Exception:
        logger.exception("step %s of job %s", step.pk, step.job_id)
        step.end(StepState.FAILED, "an error of reef's own; its log tells more")
    else:
        mine = Step.objects.filter(pk=step.pk, state=StepState.RUNNING, attempts=step.attempts)
        step.acted_at = clock.now()
        if mine.update(acted_at=step.acted_at):
            _check_step(step, step.acted_at)


def _check_step(step: Step, now: datetime) -> None:
    """Update a running step: done, failed, released to another worker, or still running."""
    if step.acted_at is None:
        if step.leased_until and not is_leased(step.leased_until, now, STEP_LEASE):
            _release_step(step)
        return
    try:
        done = handlers.get_handler(step.handler).is_done(Operation(step.job.verb), step.vm_id)
        if done and step.job.verb == Operation.DESTROY:
            services.remove_vm(step.vm_id, step.job.actor)
    except ReefError as error:
        step.end(StepState.FAILED, str(error))
    except Exception:
        logger.exception("step %s of job %s", step.pk, step.job_id)
        step.end(StepState.FAILED, "an error of reef's own; its log tells more")
    else:
        if done:
            step.end(StepState.DONE)
        elif now - step.acted_at > STEP_TIMEOUT:
            seconds = int(STEP_TIMEOUT.total_seconds())
            step.end(StepState.FAILED, f"was asked, and had not come to its end after {seconds} s")


def _release_step(step: Step) -> None:
    """Release the step of a lost worker to another one, up to MAX_ATTEMPTS attempts."""
    if step.job.state == JobState.CANCELLED:
        step.end(StepState.CANCELLED, "its worker was lost, and the job was cancelled")
    elif step.attempts < MAX_ATTEMPTS:
        step.end(StepState.WAITING, "its worker was lost; tried again")
    else:
        step.end(StepState.FAILED, f"its worker was lost {step.attempts} times")
