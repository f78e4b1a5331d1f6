"""Responses about provisionings, their logs and previews."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from bootloader.models import LogLine, Provisioning
from bootloader.provisioning import quota, requests
from bootloader.provisioning.preview import Difference, Preview
from bootloader.provisioning.serializers.fields import ABSENT, MAX_ROWS, Json
from bootloader.provisioning.serializers.provision_requests import SPEC_NAMES
from bootloader.states import CleanupPolicy, State, StepName, StepState
from reef_site.common.api.fields import (
    Choice,
    Cursor,
    Flag,
    JsonValue,
    ListOf,
    Text,
    Timestamp,
    WholeNumber,
)
from reef_site.common.api.rows import object_reader
from reef_site.common.api.serializers import ResponseBody


class StepResponse(ResponseBody):
    """A step of a provisioning; durations are in milliseconds."""

    name = Choice(StepName.values)
    state = Choice(StepState.values)
    reason = Text(allow_null=True)
    attempts = WholeNumber()
    startedAt = Timestamp(source="started_at", allow_null=True)
    endedAt = Timestamp(source="ended_at", allow_null=True)
    durationMs = WholeNumber(allow_null=True)


class ProvisioningResponse(ResponseBody):
    """A provisioning with its steps."""

    id = Text()
    name = Text()
    type = Text(source="profile")
    provider = Text()
    parentVmId = Text(source="parent_vm_id", allow_null=True)
    batch = Text(help_text="The first id of those that one request made.")
    state = Choice(State.values)
    stateSince = Timestamp(source="state_since")
    reason = Text(allow_null=True)
    waitsFor = Text(allow_null=True)
    vmId = Text(source="vm_id", allow_null=True)
    machineId = Text(allow_null=True)
    onFailure = Choice(CleanupPolicy.values, source="on_failure")
    spec = JsonValue("object")
    actor = Text()
    createdAt = Timestamp(source="created_at")
    endedAt = Timestamp(source="ended_at", allow_null=True)
    steps = StepResponse(many=True)


class OneProvisioningResponse(ResponseBody):
    provisioning = ProvisioningResponse()


class ProvisionedResponse(ResponseBody):
    """The provisionings of a request, in the order of their names."""

    provisionings = ProvisioningResponse(many=True)
    count = WholeNumber()
    continued = Flag(help_text="An earlier request made them.")
    provisioning = ProvisioningResponse(required=False, help_text="Without `count`: the only one.")


class DifferenceResponse(ResponseBody):
    """A unified diff to the text that was used last."""

    against = Text(help_text="The id of a provisioning.")
    lines = ListOf(Text(), most=MAX_ROWS)


class ExistingOrPreviewResponse(ResponseBody):
    """The provisionings that exist already, or the preview of a dry run."""

    provisionings = ProvisioningResponse(many=True, required=False)
    count = WholeNumber(required=False)
    continued = Flag(required=False)
    provisioning = ProvisioningResponse(required=False)
    dryRun = Flag(required=False)
    names = ListOf(Text(), most=requests.MAX_COUNT, required=False)  # type: ignore[assignment]
    provider = Text(required=False)
    parentVmId = Text(**ABSENT)
    spec = JsonValue("object", required=False)
    told = ListOf(Text(), most=MAX_ROWS, required=False, help_text="Where each value comes from.")
    script = Text(required=False, help_text="With secrets masked, as `userData`.")
    userData = Text(required=False)
    diff = DifferenceResponse(**ABSENT)
    userDataDiff = DifferenceResponse(**ABSENT)
    existing = ListOf(Text(), most=requests.MAX_COUNT, required=False)


class LogLineResponse(ResponseBody):
    """A log entry; a `text` of the kind `output` may have many lines."""

    id = WholeNumber()
    at = Timestamp()
    step = Text(allow_null=True)
    kind = Choice(LogLine.Kind.values)
    text = Text()


class ProvisioningLogResponse(ResponseBody):
    lines = LogLineResponse(many=True)
    count = WholeNumber()
    next = Cursor(help_text="The `cursor` of the following lines.")
    state = Choice(State.values)


_read_provisioning = object_reader(
    ProvisioningResponse, "waitsFor", "machineId", "steps", blank_as_null=True
)
_read_step = object_reader(StepResponse, "durationMs", blank_as_null=True)
line_json = object_reader(LogLineResponse, blank_as_null=True)


def provisionings_json(rows: Iterable[Provisioning]) -> list[Json]:
    """Return several provisionings as JSON, looking up the cause of waiting only once."""
    found = list(rows)
    waits = quota.why_waiting() if any(row.state == State.QUEUED for row in found) else ""
    return [_provisioning_json(row, waits) for row in found]


def provisioning_json(row: Provisioning) -> Json:
    """Return a provisioning with its steps as JSON."""
    return provisionings_json([row])[0]


def _provisioning_json(row: Provisioning, waits: str) -> Json:
    steps = [
        _read_step(step)
        | {"durationMs": None if step.seconds is None else int(step.seconds * 1000)}
        for step in sorted(row.steps.all(), key=lambda each: each.position)
    ]
    return _read_provisioning(row) | {
        "waitsFor": waits if row.state == State.QUEUED else None,
        "machineId": row.machine.machine_id if row.machine else None,
        "spec": spec_json(row.spec),
        "steps": steps,
    }


def spec_json(spec: Mapping[str, Any]) -> Json:
    """Return a machine's specification by the field names of requests."""
    return {SPEC_NAMES.get(column, column): value for column, value in spec.items()}


def preview_json(made: Preview) -> Json:
    """Return the preview as JSON."""
    return {
        "names": made.names,
        "provider": made.vm_request.provider,
        "parentVmId": made.vm_request.parent_vm_id or None,
        "spec": spec_json(made.spec),
        "told": made.explanation,
        "script": made.texts.script,
        "userData": made.texts.user_data,
        "diff": _difference_json(made.script_diff),
        "userDataDiff": _difference_json(made.user_data_diff),
        "existing": [row.pk for row in made.known],
    }


def _difference_json(difference: Difference | None) -> Json | None:
    if difference is None:
        return None
    return {"against": difference.against.pk, "lines": difference.lines}
