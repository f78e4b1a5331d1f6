"""Requests and responses about machines and findings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bootloader import providers
from bootloader.inventory import reconcile
from bootloader.models import Finding
from bootloader.provisioning.serializers.fields import ABSENT, MAX_ROWS, Json
from bootloader.states import FindingKind, FindingState, Proposal
from reef_site.common.api.fields import (
    AnyText,
    ApiField,
    Choice,
    Cursor,
    Flag,
    ListOf,
    Text,
    Timestamp,
    WholeNumber,
)
from reef_site.common.api.rows import object_reader
from reef_site.common.api.serializers import Body, Query, ResponseBody
from reef_site.common.errors import BadInput
from reef_site.common.request_values import choice_of


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


_read_finding = object_reader(FindingResponse, "actions", blank_as_null=True)
machine_json = object_reader(MachineResponse, blank_as_null=True)


def finding_json(row: Finding) -> Json:
    """Return a finding with its proposal as JSON."""
    return _read_finding(row) | {"actions": sorted(reconcile.allowed_actions(row))}


class MachinesQuery(Query):
    gone = AnyText(default="", help_text="`true`: also machines that are gone.")
    provider = Text(strip=False)
    limit = WholeNumber(least=1, most=MAX_ROWS, default=MAX_ROWS)
    cursor = Cursor()


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
