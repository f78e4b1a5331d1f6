"""Requests and responses of the provisioning API, in the wire format."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from bootloader import providers
from bootloader.inventory import reconcile
from bootloader.models import Finding, LogLine, Provisioning
from bootloader.provisioning import quota, requests
from bootloader.provisioning.preview import Difference, Preview
from bootloader.provisioning.requests import ProvisionRequest
from bootloader.serializers import FalsyIsAbsent
from bootloader.states import (
    CleanupPolicy,
    FindingKind,
    FindingState,
    Proposal,
    State,
    StepName,
    StepState,
)
from reef_site.common.api.fields import (
    AnyText,
    ApiField,
    Choice,
    Cursor,
    Flag,
    JsonValue,
    ListOf,
    Number,
    Parsed,
    Text,
    Timestamp,
    WholeNumber,
)
from reef_site.common.api.rows import object_reader
from reef_site.common.api.serializers import Body, OrderedFields, Query, ResponseBody
from reef_site.common.errors import BadInput
from reef_site.common.models import CallState
from reef_site.common.request_values import choice_of
from reef_site.common.text import is_storable
from vmtree import aliases
from vmtree.fields import VMAlias

Json = dict[str, Any]
MAX_ROWS = 1000
DEFAULT_ROWS = 100
MAX_LENGTH = 255
MAX_NAMES = 200
ABSENT: Json = {"required": False, "allow_null": True}

# -- responses -----------------------------------------------------------------------------------


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


class MachineResponse(ResponseBody):
    """A machine as its provider reports it."""

    provider = Text()
    machineId = Text(source="machine_id")
    name = Text(allow_null=True)
    vmId = Text(source="vm_id", allow_null=True)
    state = Text(allow_null=True, help_text="In the provider's words.")
    mine = Flag(help_text="Made with our key, as far as is known.")
    createdAt = Timestamp(source="created_at", allow_null=True)
    seenAt = Timestamp(source="seen_at")
    goneAt = Timestamp(source="gone_at", allow_null=True)
    note = Text(allow_null=True)


class FindingResponse(ResponseBody):
    """A difference between provider, tree and registry, with its proposal."""

    id = WholeNumber()
    kind = Choice(FindingKind.values)
    provider = Text()
    machineId = Text(source="machine_id")
    vmId = Text(source="vm_id", allow_null=True)
    name = Text(allow_null=True)
    text = Text()
    proposal = Choice(Proposal.values)
    actions = ListOf(Choice(Proposal.values), most=len(Proposal))
    state = Choice(FindingState.values)
    foundAt = Timestamp(source="found_at")
    decidedAt = Timestamp(source="decided_at", allow_null=True)
    decidedBy = Text(source="decided_by", allow_null=True)
    outcome = Text(allow_null=True)


class FailedFindingResponse(FindingResponse):
    error = Text()


class OneFindingResponse(ResponseBody):
    finding = FindingResponse()


class ComparedResponse(ResponseBody):
    """Open findings, and machines that are too new to be compared."""

    findings = FindingResponse(many=True)
    count = WholeNumber()
    skipped = MachineResponse(many=True)
    note = Text(required=False)


class DecidedResponse(ResponseBody):
    findings = FindingResponse(many=True)
    count = WholeNumber()
    failed = FailedFindingResponse(many=True)


class ConnectionStepResponse(ResponseBody):
    name = Text(help_text="Such as `address`, `tcp`, `host key`, `login`, `python` or `agent`.")
    seconds = Number()
    note = Text(help_text="What was found; may be empty.")
    problem = Text(help_text="What is wrong; empty if nothing is.")


class ConnectionTestResponse(ResponseBody):
    """The way to a machine, up to the step that failed."""

    name = Text()
    good = Flag()
    steps = ConnectionStepResponse(many=True)

    example = {
        "name": "builder",
        "good": False,
        "steps": [
            {"name": "address", "seconds": 0.002, "note": "192.0.2.7", "problem": ""},
            {"name": "tcp", "seconds": 0.03, "note": "", "problem": "Connection refused"},
        ],
    }


class CallResponse(ResponseBody):
    """The state of a call, and what the request would have been answered with."""

    id = Text()
    state = Choice([CallState.RUNNING, CallState.DONE, CallState.FAILED])
    error = Text(required=False)
    finding = FindingResponse(required=False)
    findings = FindingResponse(many=True, required=False)
    count = WholeNumber(required=False)
    failed = FailedFindingResponse(many=True, required=False)
    skipped = MachineResponse(many=True, required=False)
    note = Text(required=False)
    name = Text(required=False)
    good = Flag(required=False)
    steps = ConnectionStepResponse(many=True, required=False)

    example = {"id": "5f3a", "state": "running"}


_read_provisioning = object_reader(
    ProvisioningResponse, "waitsFor", "machineId", "steps", blank_as_null=True
)
_read_step = object_reader(StepResponse, "durationMs", blank_as_null=True)
_read_finding = object_reader(FindingResponse, "actions", blank_as_null=True)
line_json = object_reader(LogLineResponse, blank_as_null=True)
machine_json = object_reader(MachineResponse, blank_as_null=True)


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


def finding_json(row: Finding) -> Json:
    """Return a finding with its proposal as JSON."""
    return _read_finding(row) | {"actions": sorted(reconcile.allowed_actions(row))}


def spec_json(spec: Mapping[str, Any]) -> Json:
    """Return a machine's specification by the field names of requests."""
    return {_SPEC_NAMES.get(column, column): value for column, value in spec.items()}


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


# -- requests ------------------------------------------------------------------------------------


class OneLine(Text):
    """Text without control characters, trimmed."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(length=MAX_LENGTH, **kwargs)

    def to_internal_value(self, data: Any) -> str:
        if data is None:
            self.refuse("is required", "required")
        if not is_storable(data) or any(ord(sign) < 32 for sign in data):
            self.refuse("must be text")
        text = data.strip()
        if len(text) > MAX_LENGTH:
            self.refuse(f"at most {MAX_LENGTH} characters")
        if not self.blank and not text:
            self.refuse("is required", "required")
        return text


class OptionalLine(FalsyIsAbsent, OneLine):
    """One line that may be absent or empty."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(required=False, blank=False, **kwargs)


class OneLineList(ListOf):
    def __init__(self, **kwargs: Any) -> None:
        super().__init__(OneLine(blank=False), most=MAX_NAMES, **kwargs)

    def to_internal_value(self, data: Any) -> list[Any]:
        if not isinstance(data, list) or len(data) > self.most:
            self.refuse("must be a list of text")
        return super().to_internal_value(data)


class Labels(JsonValue):
    """An object of texts."""

    def to_internal_value(self, data: Any) -> dict[str, str]:
        if not isinstance(data, dict) or len(data) > MAX_NAMES:
            self.refuse("must be an object of texts")
        read = OneLine(blank=False).to_internal_value
        return {read(name): read(value) for name, value in data.items()}

    def schema(self) -> Json:
        value = OneLine(blank=False).schema()
        return {"type": "object", "maxProperties": MAX_NAMES, "additionalProperties": value}


class ParentVM(OneLine):
    def to_internal_value(self, data: Any) -> str:
        return aliases.resolve(super().to_internal_value(data))


class KnownProvider(OneLine):
    def to_internal_value(self, data: Any) -> str:
        slug = super().to_internal_value(data)
        if slug and (problem := providers.slug_problem(slug)):
            self.refuse(problem)
        return slug


class KnownProfile(OneLine):
    def to_internal_value(self, data: Any) -> str:
        return requests.parse_profile(super().to_internal_value(data))


class ProvisionBody(OrderedFields, Body):
    """A request for one VM, or `count` VMs. Absent fields fall back to config or the profile."""

    name = Parsed(requests.parse_name, {"type": "string", "pattern": f"^{requests.NAME.pattern}$"})
    type = OneLine(blank=False, help_text="The type of a profile.")
    profile = KnownProfile(required=False, help_text="Older name of `type`.")
    parentVmId = ParentVM(**ABSENT, source="parent_vm_id")
    provider = KnownProvider(**ABSENT)
    commit = OptionalLine(help_text="Older name of `commitId`.")
    labels = Labels("object", **ABSENT)
    extraOrgans = OneLineList(**ABSENT, source="extra_organs")
    extraCapabilities = OneLineList(**ABSENT, source="extra_capabilities")
    onFailure = Choice(CleanupPolicy.values, **ABSENT, source="on_failure")
    count = WholeNumber(least=1, most=requests.MAX_COUNT, **ABSENT)
    dryRun = Flag(required=False, help_text="Return a preview and change nothing.")
    commitId = OptionalLine(source="commit", help_text="A saved machine to restore.")
    image = OptionalLine()
    kernel = OptionalLine()
    region = OptionalLine()
    size = OptionalLine()
    agentVersion = OptionalLine(source="agent_version")
    roofReefUrl = OptionalLine(source="roof_url")
    vcpus = WholeNumber(least=1, most=256, **ABSENT)
    memoryMib = WholeNumber(least=1, most=4 << 20, **ABSENT, source="memory_mib")
    diskMib = WholeNumber(least=1, most=64 << 20, **ABSENT, source="disk_mib")

    machine = (
        *("commitId", "image", "kernel", "region", "size", "agentVersion", "roofReefUrl"),
        *("vcpus", "memoryMib", "diskMib"),
    )
    checked_first = (*machine, "commit", "type")
    example = {"name": "builder", "type": "swarm", "parentVmId": "vm-1"}

    def to_internal_value(self, data: Mapping[str, Any]) -> Json:
        """Let the older names stand for absent newer ones."""
        kind = data.get("type") or data.get("profile")
        given = {**data, "type": kind, "profile": kind}
        if data.get("commitId"):
            given.pop("commit", None)
        values = super().to_internal_value(given)
        del values["type"]
        return values


_SPEC_NAMES = {
    str(field.source): name
    for name, field in ProvisionBody().fields.items()
    if name in ProvisionBody.machine
}


def to_request(values: Json) -> ProvisionRequest:
    """Return the command of a valid ProvisionBody. Raise BadInput."""
    given: Json = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in values.items()
        if value is not None and name != "dryRun"
    }
    vm_request = ProvisionRequest(**given)
    requests.check(vm_request)
    return vm_request


class ProvisioningsQuery(Query):
    state = Choice(State.values)
    name = Text(strip=False)
    batch = Text(strip=False)
    vmId = VMAlias(strip=False, source="vm_id")
    limit = WholeNumber(least=1, most=MAX_ROWS, default=DEFAULT_ROWS)
    cursor = Text(strip=False)


class ProvisioningLogQuery(Query):
    cursor = Cursor()
    after = Cursor(older_name=True)
    limit = WholeNumber(least=1, most=MAX_ROWS, default=MAX_ROWS)


class CancelBody(Body):
    machine = Parsed(
        requests.parse_cleanup,
        {"type": "string", "enum": CleanupPolicy.values},
        required=False,
        help_text="What becomes of the VM.",
    )

    example = {"machine": "delete"}


class MachinesQuery(Query):
    gone = AnyText(default="", help_text="`true`: also machines that are gone.")
    provider = Text(strip=False)
    limit = WholeNumber(least=1, most=MAX_ROWS, default=MAX_ROWS)
    cursor = Cursor()


class ConnectionTestBody(Body):
    """The VM of a provider, or a registered SSH host."""

    vmId = OptionalLine(source="vm_id")
    sshHost = OptionalLine(source="ssh_host")

    example = {"sshHost": "builder"}

    def to_internal_value(self, data: Mapping[str, Any]) -> Json:
        """Raise BadInput unless exactly one of the two is given."""
        if bool(data.get("vmId")) == bool(data.get("sshHost")):
            raise BadInput("vmId: say either vmId or sshHost", "vmId")
        return super().to_internal_value(data)


class FindingsQuery(Query):
    state = Choice(FindingState.values, default=FindingState.OPEN.value)
    limit = WholeNumber(least=1, most=MAX_ROWS, default=MAX_ROWS)
    cursor = Cursor()


class FindingIds(ListOf):
    def to_internal_value(self, data: Any) -> list[Any]:
        if not isinstance(data, list) or not data or not all(type(key) is int for key in data):
            self.refuse("must be a list of numbers")
        return list(dict.fromkeys(data[: self.most]))


class FindingsProvider(ApiField):
    def to_internal_value(self, data: Any) -> str:
        return choice_of(data, "provider", providers.all_slugs())

    def schema(self) -> Json:
        return {"type": "string"}


class DecisionBody(Body):
    action = Choice(Proposal.values, **ABSENT, help_text="Absent: as proposed.")

    example = {"action": "delete"}


class DecisionsBody(Body):
    """`ids`, or `kind` with an optional `provider`."""

    ids = FindingIds(WholeNumber(), least=1, most=MAX_ROWS, **ABSENT)
    kind = Choice(FindingKind.values, **ABSENT)
    provider = FindingsProvider(**ABSENT)
    action = Choice(Proposal.values, **ABSENT, help_text="Absent: as proposed.")

    example = {"ids": [1, 2]}

    def to_internal_value(self, data: Mapping[str, Any]) -> Json:
        """Raise BadInput unless exactly one of `ids` and `kind` is given."""
        ids, kind = data.get("ids"), data.get("kind")
        if (ids is None) == (kind is None):
            raise BadInput("ids: say either ids or kind", "ids")
        ignored = () if ids is None else ("provider",)
        return super().to_internal_value({k: data[k] for k in data if k not in ignored})
