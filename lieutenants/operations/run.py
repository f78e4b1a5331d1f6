"""Moving a job on: which steps are next, what came of those under way, when it is at its end.

`advance` finds, `act` does: both may run twice, late or never. One `advance` at a time holds the
job's lease; steps are claimed one by one; a step whose worker died comes free by itself.
"""

from __future__ import annotations

import logging
from datetime import datetime, timedelta

from django.db.models import Q

from lieutenants.operations import handlers, plain_vms
from lieutenants.operations.models import (
    MISSED_STEPS,
    Job,
    JobState,
    Step,
    StepState,
    Verb,
)
from reef_site.common import clock, events
from reef_site.common.batches import batched
from reef_site.common.dispatch import dispatch
from reef_site.common.errors import ReefError
from reef_site.common.leases import is_leased
from vmtree import snapshots
from vmtree.snapshot_models import Why

logger = logging.getLogger(__name__)

# How many steps of a job are under way at a time, and how many one task does.
PARALLEL = 8
BATCH = 4
JOB_LEASE = timedelta(seconds=30)
# A step whose worker was not heard of for so long is tried again.
STEP_LEASE = timedelta(seconds=30)
MOST_TRIES = 3
# How long a VM may take to do what it was asked.
PATIENCE = timedelta(seconds=90)
LOOK_AGAIN = timedelta(seconds=1)
# The reason of a job that is done and did nothing.
IDLE = "nothing was done: every VM was left out, each for the reason that its step tells"


def advance(job_id: str) -> None:
    """Look at a job once, and ring for what is next. Does nothing while somebody else looks."""
    job = Job.objects.claim(job_id, JOB_LEASE)
    if job is None:
        return
    try:
        at_work = _is_safe(job) and _look_at(job)
    finally:
        Job.objects.release(job.pk, job.leased_until)
    if at_work:
        _look_again(job)


def act(step_ids: list[int]) -> None:
    """Do these steps, those of them that still wait; then have their jobs looked at."""
    job_ids = set()
    for step_id in step_ids:
        step = Step.objects.claim(step_id, STEP_LEASE)
        if step:
            job_ids.add(step.job_id)
            _do(step)
    for job_id in job_ids:
        dispatch("operations.advance", job_id)


def tick() -> None:
    """Ring for each open job: what a lost ring left behind goes on."""
    for job_id in Job.objects.open().order_by("id").values_list("pk", flat=True)[:500]:
        dispatch("operations.advance", job_id)
    _settle_cancelled()


def _settle_cancelled() -> None:
    """What was under way when its job was cancelled comes to its end."""
    now = clock.now()
    cancelled = Job.objects.filter(state=JobState.CANCELLED, ended_at__gte=now - 10 * PATIENCE)
    running = Step.objects.filter(job__in=cancelled, state=StepState.RUNNING)
    for step in running.select_related("job")[:500]:
        _settle(step, now)


# -- a job ---------------------------------------------------------------------------------------


def _is_safe(job: Job) -> bool:
    """Take a snapshot before anything is destroyed; without one the job fails."""
    if job.verb != Verb.DESTROY or job.snapshot:
        return True
    try:
        made = snapshots.take(by=f"job {job.pk}", why=Why.CHANGE).snapshot
    except (ReefError, OSError) as error:
        reason = f"nothing was destroyed, for there could be no snapshot before: {error}"
        logger.warning("job %s: %s", job.pk, reason)
        ended = {"state": JobState.FAILED, "reason": reason[:2000], "ended_at": clock.now()}
        Job.objects.open().filter(pk=job.pk).update(**ended)
        return False
    job.snapshot = made.file
    Job.objects.filter(pk=job.pk).update(snapshot=job.snapshot)
    return True


def _look_at(job: Job) -> bool:
    """One look: settle, free, block, send, close. Whether the job is still at work."""
    now = clock.now()
    under_way = list(job.steps.filter(state=StepState.RUNNING).select_related("job"))
    for step in under_way:
        _settle(step, now)
    _block(job)
    running = sum(step.state == StepState.RUNNING for step in under_way)
    _send(job, PARALLEL - running)
    return not _close(job)


def _send(job: Job, free: int) -> None:
    """Ring for as many steps as there are free places."""
    if free <= 0:
        return
    ready = job.steps.ready(Verb(job.verb)).order_by("position")
    ids = list(ready.values_list("pk", flat=True)[:free])
    for batch in batched(ids, BATCH):
        dispatch("operations.act", batch)


def _close(job: Job) -> bool:
    """End the job if nothing is left to do; whether it is at its end."""
    if job.steps.unfinished().exists():
        return not Job.objects.open().filter(pk=job.pk).exists()
    missed = job.steps.filter(state__in=MISSED_STEPS).exists()
    state = JobState.FAILED if missed else JobState.DONE
    did_nothing = not missed and not job.steps.filter(state=StepState.DONE).exists()
    reason = IDLE if did_nothing else ""
    Job.objects.open().filter(pk=job.pk).update(state=state, reason=reason, ended_at=clock.now())
    events.publish_nodes([job.vm_id])
    return True


def _look_again(job: Job) -> None:
    """Ring for a later look, unless somebody did so already."""
    now = clock.now()
    unasked = Q(look_at__isnull=True) | Q(look_at__lte=now)
    if Job.objects.open().filter(unasked, pk=job.pk).update(look_at=now + LOOK_AGAIN):
        dispatch("operations.advance", job.pk, countdown=LOOK_AGAIN.total_seconds())


def _block(job: Job) -> None:
    """Give up waiting steps that need a missed one, directly or through others."""
    verb = Verb(job.verb)
    missed = job.steps.filter(state__in=MISSED_STEPS)
    if not verb.needs_relatives or not missed.exists():
        return
    rows = job.steps.order_by("position").values_list("pk", "vm_id", "above", "state", "name")
    reasons: dict[str, str] = {}
    blocked: dict[int, str] = {}
    # In the order of the plan, so that a step comes after all those that it needs.
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


# -- a step --------------------------------------------------------------------------------------


def _do(step: Step) -> None:
    """Ask for it. What is at once at its end is written down as done."""
    try:
        handler = handlers.handler_of(step.handler)
        handler.act(Verb(step.job.verb), step.vm_id, step.job.actor)
    except ReefError as error:
        step.end(StepState.FAILED, str(error))
    except Exception:
        logger.exception("step %s of job %s", step.pk, step.job_id)
        step.end(StepState.FAILED, "an error of reef's own; its log tells more")
    else:
        mine = Step.objects.filter(pk=step.pk, state=StepState.RUNNING, attempts=step.attempts)
        step.acted_at = clock.now()
        if mine.update(acted_at=step.acted_at):
            _settle(step, step.acted_at)


def _settle(step: Step, now: datetime) -> None:
    """See what came of a running step: done, failed, given back, or not yet at its end."""
    if step.acted_at is None:
        if step.leased_until and not is_leased(step.leased_until, now, STEP_LEASE):
            _give_back(step)
        return
    try:
        done = handlers.handler_of(step.handler).is_done(Verb(step.job.verb), step.vm_id)
        if done and step.job.verb == Verb.DESTROY:
            plain_vms.bury(step.vm_id, step.job.actor)
    except ReefError as error:
        step.end(StepState.FAILED, str(error))
    except Exception:
        logger.exception("step %s of job %s", step.pk, step.job_id)
        step.end(StepState.FAILED, "an error of reef's own; its log tells more")
    else:
        if done:
            step.end(StepState.DONE)
        elif now - step.acted_at > PATIENCE:
            seconds = int(PATIENCE.total_seconds())
            step.end(StepState.FAILED, f"was asked, and had not come to its end after {seconds} s")


def _give_back(step: Step) -> None:
    """Its worker died: another one may try, but not for ever."""
    if step.job.state == JobState.CANCELLED:
        step.end(StepState.CANCELLED, "its worker was lost, and the job was cancelled")
    elif step.attempts < MOST_TRIES:
        step.end(StepState.WAITING, "its worker was lost; tried again")
    else:
        step.end(StepState.FAILED, f"its worker was lost {step.attempts} times")
