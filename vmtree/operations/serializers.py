"""Requests and responses of operations, in the wire format: plans, jobs and steps."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from reef_site.common.api.fields import (
    AnyText,
    Choice,
    Cursor,
    Flag,
    JsonValue,
    Text,
    Timestamp,
    WholeNumber,
)
from reef_site.common.api.rows import object_reader
from reef_site.common.api.serializers import Body, OrderedFields, Query, ResponseBody
from reef_site.common.errors import BadInput
from vmtree.fields import AnyVM
from vmtree.operations.models import Job, JobState, Operation, Step, StepState
from vmtree.operations.plan import Plan, PlannedStep

Json = dict[str, Any]
MAX_ROWS = 1000
DEFAULT_ROWS = 100
LEAVES_FIRST, ROOT_FIRST = "leaves first", "root first"

# -- responses -----------------------------------------------------------------------------------


class PlannedStepResponse(ResponseBody):
    vmId = Text(source="vm_id")
    name = Text()
    handler = Text()
    does = Text()
    leftOut = Text(source="left_out", required=False, help_text="Why the VM is left out.")


class OperationPlanResponse(ResponseBody):
    """The steps in the order in which they would be taken."""

    verb = Choice(Operation.values)
    vmId = Text()
    name = Text()
    order = Choice([LEAVES_FIRST, ROOT_FIRST])
    count = WholeNumber(help_text="How many VMs would be touched.")
    leftOut = WholeNumber()
    steps = PlannedStepResponse(many=True)


class PlannedResponse(ResponseBody):
    """The response to a dry run."""

    dryRun = Flag()
    plan = OperationPlanResponse()

    example = {
        "dryRun": True,
        "plan": {
            "verb": "pause",
            "vmId": "vm-7",
            "name": "builder",
            "order": LEAVES_FIRST,
            "count": 1,
            "leftOut": 0,
            "steps": [
                {"vmId": "vm-7", "name": "builder", "handler": "provider", "does": "pause it"}
            ],
        },
    }


class JobResponse(ResponseBody):
    """A job, with its number of steps by state."""

    id = Text()
    verb = Choice(Operation.values)
    vmId = Text(source="vm_id")
    name = Text()
    state = Choice(JobState.values)
    reason = Text(allow_null=True)
    actor = Text()
    cause = Text(allow_null=True, help_text="The rule's firing, if one started it.")
    snapshot = Text(allow_null=True, help_text="Taken before it began.")
    createdAt = Timestamp(source="created_at")
    endedAt = Timestamp(source="ended_at", allow_null=True)
    steps = JsonValue("object")

    example = {
        "id": "01JD9Z3K8Q5V7W2X4Y6A8B0C1D",
        "verb": "pause",
        "vmId": "vm-7",
        "name": "builder",
        "state": "open",
        "reason": None,
        "actor": "ada",
        "cause": None,
        "snapshot": None,
        "createdAt": "2026-11-22T06:21:09.098Z",
        "endedAt": None,
        "steps": {"waiting": 1, "running": 0, "done": 0, "failed": 0},
    }


class OneJobResponse(ResponseBody):
    job = JobResponse()

    example = {"job": JobResponse.example}


class StartedJobResponse(ResponseBody):
    job = JobResponse()
    continued = Flag(help_text="It is an earlier job, which goes on.")

    example = {"job": JobResponse.example, "continued": False}


class JobStepResponse(ResponseBody):
    """A step of a job. Nodes see reasons only of steps about their own line."""

    position = WholeNumber()
    vmId = Text(source="vm_id")
    name = Text()
    handler = Text()
    does = Text()
    state = Choice(StepState.values)
    reason = Text(allow_null=True)
    attempts = WholeNumber()
    startedAt = Timestamp(source="started_at", allow_null=True)
    endedAt = Timestamp(source="ended_at", allow_null=True)


class JobStepsResponse(ResponseBody):
    """A job and a page of its steps."""

    job = JobResponse()
    plan = JobStepResponse(many=True)
    count = WholeNumber()
    next = Cursor(allow_null=True, help_text="The next page's `cursor`.")

    example = {"job": JobResponse.example, "plan": [], "count": 0, "next": None}


_read_planned_step = object_reader(PlannedStepResponse)
_read_job = object_reader(JobResponse, "steps", blank_as_null=True)
_read_step = object_reader(JobStepResponse, blank_as_null=True)


def plan_json(plan: Plan) -> Json:
    """Return the plan with its steps in order; skipped ones carry their reason."""
    return {
        "verb": plan.verb.value,
        "vmId": plan.vm_id,
        "name": plan.name,
        "order": LEAVES_FIRST if plan.verb.leaves_first else ROOT_FIRST,
        "count": len(plan.changed_steps),
        "leftOut": len(plan.left_out),
        "steps": [_planned_step_json(step) for step in plan.steps],
    }


def _planned_step_json(step: PlannedStep) -> Json:
    facts = _read_planned_step(step)
    if not step.left_out:
        del facts["leftOut"]
    return facts


def job_json(job: Job) -> Json:
    """Return a job with its number of steps by state."""
    counts = job.counts()
    return _read_job(job) | {"steps": {state: counts.get(state, 0) for state in StepState.values}}


def steps_json(steps: Iterable[Step]) -> list[Json]:
    """Return the steps with their results."""
    return [_read_step(step) for step in steps]


# -- requests ------------------------------------------------------------------------------------


class ExpectedCount(WholeNumber):
    def to_internal_value(self, data: Any) -> int:
        if not isinstance(data, int) or isinstance(data, bool) or data < 0:
            self.refuse("must be a whole number, 0 or more")
        return data


class OperationBody(Body):
    """The body may be absent, but it must not be another JSON value than an object."""

    dryRun = Flag(required=False, help_text="Return the plan and change nothing.")
    confirm = ExpectedCount(
        required=False, allow_null=True, help_text="Refuse if another number would be touched."
    )

    example = {"confirm": 3}

    @classmethod
    def parse_data(cls, data: object) -> Json:
        if not isinstance(data, dict):
            names = " or ".join(cls.names())
            raise BadInput(f"body: must be an object with {names}, or absent", "body")
        return super().parse_data(data)


class JobsQuery(Query):
    state = Choice(JobState.values)
    verb = Choice(Operation.values)
    vmId = AnyVM(source="vm_id", help_text="The VM at the top.")
    limit = WholeNumber(least=1, most=MAX_ROWS, default=DEFAULT_ROWS)
    cursor = AnyText()


class JobStepsQuery(OrderedFields, Query):
    from_ = Cursor(older_name=True)
    cursor = Cursor(help_text="The position of the first step.")
    limit = WholeNumber(least=1, most=MAX_ROWS, default=MAX_ROWS)

    checked_first = ("cursor",)
