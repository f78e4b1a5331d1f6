"""Responses of the lieutenants' API, in the wire format.

Deployed agents rely on key order, absent keys and texts; add new keys at the end.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from lieutenants.hosts import liveness
from lieutenants.machine_state import Contact
from lieutenants.models import Lieutenant, Process, Usage
from lieutenants.models.lieutenants import WAIT_COLUMNS
from lieutenants.sessions import failure_series
from lieutenants.states import LimitAction, RestartPolicy, Status, WaitKind
from lieutenants.supervision import made_vms
from lieutenants.transcript import outputs
from lieutenants.transcript.serializers import (
    MAX_CHARACTERS,
    MAYBE,
    NULL,
    UsageResponse,
    usage_json,
)
from reef_site.common.api.fields import (
    Choice,
    Flag,
    JsonValue,
    ListOf,
    Number,
    Text,
    Timestamp,
    WholeNumber,
)
from reef_site.common.api.rows import object_reader
from reef_site.common.api.serializers import ResponseBody
from vmtree import permissions

MAX_ACTED = 100_000

Json = dict[str, Any]

# -- responses -----------------------------------------------------------------------------------


class FailingResponse(ResponseBody):
    """A series of equal failures."""

    since = Timestamp()
    count = WholeNumber()
    error = Text()
    entryId = WholeNumber(**NULL)
    messageId = Text(**NULL)
    canRewind = Flag(help_text="Going back to before that message may help.")


class ContextUsageResponse(ResponseBody):
    tokens = Number(**MAYBE)
    window = Number(**MAYBE)
    percent = Number(**MAYBE)


class StartStepResponse(ResponseBody):
    """One step of a start on a VM."""

    name = Text(
        help_text="`vm`, `ssh`, `identity`, `keeper`, `inherited`, `agent` or `ready`; before "
        "these `provision-` with the steps of the provisioning of a VM that was made for it."
    )
    at = Text(help_text="When it began.")
    seconds = Number(**MAYBE, help_text="How long it took; absent while it runs.")
    note = Text(**MAYBE)
    problem = Text(**MAYBE, help_text="Why it failed.")


class MachineStateResponse(ResponseBody):
    """The machine of a remote lieutenant. While it is out of reach, all else is as last heard."""

    state = Choice(Contact, help_text="`unknown`: nobody follows, as of a paused lieutenant.")
    since = Timestamp(allow_null=True, help_text="When the state began.")
    lastHeardAt = Timestamp(source="heard_at", allow_null=True)


class NextSignResponse(ResponseBody):
    """A sign that is expected of a lieutenant."""

    at = Timestamp(source="due_at", help_text="When it is due.")
    lateAt = Timestamp(source="late_at", help_text="When it is late, after the grace.")
    reason = Text()
    declaredBy = Text(source="declared_by", help_text="`settings`: those of the lieutenant.")
    overdue = Flag()


class LieutenantResponse(ResponseBody):
    """A lieutenant. Who may not read its transcript gets only what is public."""

    id = Text(source="pk")
    name = Text()
    role = Text()
    vmId = Text(help_text="Its alias as a VM; of a remote one the VM that it runs on, if any.")
    isLocal = Flag()
    status = Choice(Status.values)
    lastOutput = Text(**MAYBE, help_text="The running answer, or its end.")
    outputHistory = ListOf(Text(), most=outputs.MAX_ANSWERS, **MAYBE)
    taskCount = WholeNumber(source="task_count")
    createdAt = Timestamp(source="created_at")
    lastActivityAt = Timestamp(source="last_activity_at")
    systemPrompt = Text(source="system_prompt", **MAYBE)
    model = Text(**MAYBE, help_text="As it was asked for.")
    parentAgent = Text(source="parent_agent", **MAYBE)
    modelInUse = Text(source="model_in_use", **MAYBE)
    error = Text(**MAYBE, help_text="Why its status is `error`.")
    trouble = Text(**MAYBE, help_text="The present trouble with its model or host.")
    waitingFor = Text(source="waiting_for", **MAYBE)
    waitingSince = Timestamp(source="waiting_since", **MAYBE)
    failing = FailingResponse(**MAYBE)
    rewindingTo = WholeNumber(source="rewind_to", **MAYBE, help_text="A transcript entry.")
    sessionProblem = Text(source="session_problem", **MAYBE)
    modelWanted = Text(**MAYBE)
    modelProblem = Text(source="model_problem", **MAYBE)
    restartAt = Timestamp(source="restart_at", **MAYBE)
    idleLimitMinutes = WholeNumber(source="idle_limit_minutes", **MAYBE)
    isolation = Text(**MAYBE)
    statusSince = Timestamp(source="status_since")
    stalled = Flag()
    host = Text()
    folder = Text(**MAYBE)
    restartPolicy = Choice(RestartPolicy.values, source="restart_policy", **MAYBE)
    restarts = WholeNumber(**MAYBE)
    stallLimitSeconds = WholeNumber(source="stall_limit_seconds", **MAYBE)
    toolLimitSeconds = WholeNumber(source="tool_limit_seconds", **MAYBE)
    usage = UsageResponse(**MAYBE)
    rev = WholeNumber(**MAYBE, help_text="The transcript's revision.")
    agent = Text(**MAYBE, help_text="Its kind of agent.")
    command = ListOf(Text(), most=MAX_CHARACTERS, **MAYBE)
    lastOutputLength = WholeNumber(**MAYBE, help_text="If `lastOutput` is shortened.")
    outputLengths = ListOf(WholeNumber(), most=outputs.MAX_ANSWERS, **MAYBE)
    contextUsage = ContextUsageResponse(source="context_usage", **MAYBE)
    startSteps = StartStepResponse(many=True, **MAYBE, help_text="Of its newest start on a VM.")
    dialogLimitSeconds = WholeNumber(source="dialog_limit_seconds", **MAYBE)
    agentOptions = JsonValue(
        source="agent_options", **MAYBE, help_text="Settings of its agent, if not the usual ones."
    )
    machine = MachineStateResponse(**MAYBE, help_text="Of one on a VM or SSH host.")
    waitingKind = Choice(WaitKind, source="wait_kind", **MAYBE)
    waitingUntil = Timestamp(
        source="waiting_until", **MAYBE, help_text="When a model provider's limit ends, if known."
    )
    limitAt = Timestamp(
        source="limit_at", **MAYBE, help_text="When what it waits for reaches its limit."
    )
    limitAction = Choice(LimitAction.values, source="limit_action", **MAYBE)
    signPeriodSeconds = WholeNumber(source="sign_period_seconds", **MAYBE)
    signGraceSeconds = WholeNumber(source="sign_grace_seconds", **MAYBE)
    nextSign = NextSignResponse(**MAYBE)

    example = {
        "id": "01JD9Z3K8Q5V7W2X4Y6A8B0C1D",
        "name": "ada",
        "role": "Keep the tests of the shop green.",
        "vmId": "local-ada",
        "isLocal": True,
        "status": "idle",
        "taskCount": 3,
        "createdAt": "2026-11-22T06:21:09.098Z",
        "lastActivityAt": "2026-11-22T06:25:10.120Z",
        "statusSince": "2026-11-22T06:25:10.120Z",
        "stalled": False,
        "host": "reef-1",
    }


def done_response(key: str, *, detail: bool = False) -> type[ResponseBody]:
    """Return the response of an action: `{<key>: true}`.

    Until its host carries it out, it is false with a note; after a wait, it has the status.
    """
    fields: Json = {
        key: Flag(),
        "asked": Flag(**MAYBE, help_text="Its host does not answer now, and will do it."),
        "note": Text(**MAYBE),
        **({"detail": Text()} if detail else {}),
        "status": Choice(Status.values, **MAYBE),
        "error": Text(required=False, allow_null=True),
    }
    example = {key: True, **({"detail": "ada: destroyed"} if detail else {})}
    more = {"__doc__": "", "__module__": __name__, "example": example}
    return type(f"{key.capitalize()}Response", (ResponseBody,), {**fields, **more})


PausedResponse = done_response("paused")
ResumedResponse = done_response("resumed")
RestartedResponse = done_response("restarted")
AbortedResponse = done_response("aborted")
DestroyedResponse = done_response("destroyed", detail=True)


class CreatedResponse(LieutenantResponse):
    """A new lieutenant."""

    note = Text(**MAYBE, help_text="Which budget above it is used up.")

    example = LieutenantResponse.example


class ResultsResponse(ResponseBody):
    """One line of text for each lieutenant."""

    results = ListOf(Text(), most=MAX_ACTED)

    example = {"results": ["ada: destroyed (local, 3 tasks completed)"]}


# -- lieutenants ---------------------------------------------------------------------------------

# Keys for every reader of the fleet. The others show transcripts or how the lieutenant runs.
PUBLIC_KEYS = (
    *("id", "name", "role", "vmId", "isLocal", "status", "taskCount", "createdAt"),
    *("lastActivityAt", "model", "parentAgent", "statusSince", "stalled", "host"),
)


# The columns that these keys are made of.
PUBLIC_COLUMNS = (
    *("id", "name", "role", "transport", "on_vm", "task_count", "created_at"),
    *("model", "parent_agent", "host", *WAIT_COLUMNS),
)
# Keys that `?brief=true` omits.
LONG_KEYS = ("lastOutput", "outputHistory", "systemPrompt", "lastOutputLength", "outputLengths")


def lieutenants_json(
    lieutenants: Iterable[Lieutenant], *, caller: object, brief: bool = False
) -> list[Json]:
    """Return lieutenants as JSON, with only the PUBLIC_KEYS where the caller may not read more.

    `brief` omits the LONG_KEYS. The number of queries grows only with the numbers of running
    lieutenants and of very long answers.
    """
    rows = list(lieutenants)
    liveness.annotate_trouble(rows)
    pks = permissions.readable_among(
        caller, permissions.Action.READ_TRANSCRIPT, (row.pk for row in rows)
    )
    remote = [row.pk for row in rows if not row.is_local]
    steps, made = Process.objects.start_steps(remote), made_vms.steps_of(remote)
    details = Details(
        readable=pks,
        history={} if brief else outputs.newest_answers(pks),
        running={} if brief else outputs.running_outputs(pks),
        sums=Usage.objects.sums_by_lieutenant(list(pks)),
        steps={pk: [*made.get(pk, []), *steps.get(pk, [])] for pk in remote},
    )
    return with_details(rows, details, brief=brief)


@dataclass(frozen=True)
class Details:
    """Facts that only readers of transcripts see, by lieutenants' ids. `readable` has the ids of
    the lieutenants that the caller may read."""

    readable: Collection[str]
    history: Mapping[str, list[outputs.Excerpt]]
    running: Mapping[str, outputs.LongText]
    sums: Mapping[str, Mapping[str, Any]]
    steps: Mapping[str, list[Json]]


def with_details(rows: Iterable[Lieutenant], details: Details, *, brief: bool) -> list[Json]:
    """Return lieutenants as JSON, without further queries."""
    found = [
        _lieutenant_json(row, details) if row.pk in details.readable else _public_json(row)
        for row in rows
    ]
    if brief:
        return [{key: each[key] for key in each if key not in LONG_KEYS} for each in found]
    return found


# Keys that are absent when their value is empty, and never null.
_ABSENT_IF_EMPTY = (
    *("model", "parentAgent", "modelInUse", "error", "trouble", "waitingFor", "waitingSince"),
    *("failing", "rewindingTo", "sessionProblem", "modelWanted", "modelProblem", "restartAt"),
    *("idleLimitMinutes", "isolation", "command", "lastOutputLength", "outputLengths"),
    *("contextUsage", "startSteps", "agentOptions", "machine", "waitingKind", "waitingUntil"),
    *("limitAt", "signPeriodSeconds", "nextSign"),
)
_COMPUTED = (
    *("vmId", "isLocal", "lastOutput", "outputHistory", "failing", "modelWanted", "usage"),
    *("lastOutputLength", "outputLengths", "startSteps", "machine", "nextSign"),
)
_read_sign = object_reader(NextSignResponse, "overdue")
_read_machine = object_reader(MachineStateResponse)
_NOTHING = outputs.Ending()
_read_lieutenant = object_reader(LieutenantResponse, *_COMPUTED, blank_as_null=True)
_PublicResponse = type(
    "PublicLieutenantResponse",
    (ResponseBody,),
    {key: LieutenantResponse._declared_fields[key] for key in PUBLIC_KEYS},
)
_read_public = object_reader(_PublicResponse, "vmId", "isLocal", blank_as_null=True)


def _public_json(row: Lieutenant) -> Json:
    facts = _read_public(row)
    facts["vmId"], facts["isLocal"] = _vm_id(row), row.is_local
    facts["lastActivityAt"] = max(row.last_activity_at, row.status_since)
    for key in ("model", "parentAgent"):
        if not facts[key]:
            del facts[key]
    return facts


def _vm_id(row: Lieutenant) -> str:
    return f"local-{row.name}" if row.is_local else row.on_vm


def _next_sign_json(row: Lieutenant) -> Json | None:
    sign = row.next_sign
    return {**_read_sign(sign), "overdue": row.is_overdue} if sign else None


def _lieutenant_json(row: Lieutenant, details: Details) -> Json:
    history, running = details.history.get(row.pk, []), details.running.get(row.pk, _NOTHING)
    is_cut = any(each.is_cut for each in history)
    facts = _read_lieutenant(row) | {
        "vmId": _vm_id(row),
        "isLocal": row.is_local,
        "lastOutput": running.tail(outputs.MAX_SHOWN),
        "outputHistory": [each.text for each in history],
        "lastActivityAt": max(row.last_activity_at, row.status_since),
        "failing": failure_series.as_json(row),
        "modelWanted": row.model_wanted if row.model_problem else "",
        "usage": usage_json(details.sums.get(row.pk)),
        # Full lengths of the texts that are shortened here.
        "lastOutputLength": running.length if running.length > outputs.MAX_SHOWN else 0,
        "outputLengths": [each.length for each in history] if is_cut else [],
        "startSteps": details.steps.get(row.pk),
        "machine": _read_machine(row.machine) if row.machine else None,
        "nextSign": _next_sign_json(row),
    }
    empty = [key for key in _ABSENT_IF_EMPTY if not facts[key]]
    for key in empty:
        del facts[key]
    return facts
