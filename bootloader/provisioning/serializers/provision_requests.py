"""Requests about provisionings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bootloader.provisioning import requests
from bootloader.provisioning.requests import ProvisionRequest
from bootloader.provisioning.serializers.fields import (
    ABSENT,
    DEFAULT_ROWS,
    MAX_ROWS,
    Json,
    KnownProfile,
    KnownProvider,
    Labels,
    OneLine,
    OneLineList,
    OptionalLine,
    ParentVM,
)
from bootloader.states import CleanupPolicy, State
from reef_site.common.api.fields import Choice, Cursor, Flag, Parsed, Text, WholeNumber
from reef_site.common.api.serializers import Body, OrderedFields, Query
from vmtree.fields import VMAlias


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


SPEC_NAMES = {
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
