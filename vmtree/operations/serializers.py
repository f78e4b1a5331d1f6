"""JSON of plans, jobs and steps."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from vmtree.operations.models import Job, JobState, Step, StepState
from vmtree.operations.plan import Plan, PlannedStep

Json = dict[str, Any]


def plan_json(plan: Plan) -> Json:
    """Return the plan with its steps in order; skipped ones carry their reason."""
    return {
        "verb": plan.verb.value,
        "vmId": plan.vm_id,
        "name": plan.name,
        "order": "leaves first" if plan.verb.leaves_first else "root first",
        "count": len(plan.changed_steps),
        "leftOut": len(plan.left_out),
        "steps": [_planned_step_json(step) for step in plan.steps],
    }


def _planned_step_json(step: PlannedStep) -> Json:
    facts = {"vmId": step.vm_id, "name": step.name, "handler": step.handler, "does": step.does}
    return {**facts, "leftOut": step.left_out} if step.left_out else facts


def job_json(job: Job) -> Json:
    """Return a job with its number of steps by state."""
    counts = job.counts()
    return {
        "id": job.pk,
        "verb": job.verb,
        "vmId": job.vm_id,
        "name": job.name,
        "state": job.state,
        "reason": job.reason or None,
        "actor": job.actor,
        "cause": job.cause or None,
        "snapshot": job.snapshot or None,
        "createdAt": job.created_at,
        "endedAt": job.ended_at,
        "steps": {state: counts.get(state, 0) for state in StepState.values},
    }


def steps_json(steps: Iterable[Step]) -> list[Json]:
    """Return the steps with their results."""
    return [
        {
            "position": step.position,
            "vmId": step.vm_id,
            "name": step.name,
            "handler": step.handler,
            "does": step.does,
            "state": step.state,
            "reason": step.reason or None,
            "attempts": step.attempts,
            "startedAt": step.started_at,
            "endedAt": step.ended_at,
        }
        for step in steps
    ]


JOB_STATES = tuple(JobState.values)
