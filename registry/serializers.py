"""Requests and responses of the registry's API, in the wire format.

Order and names of fields are part of the contract with agents in the field; new ones come last.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from reef_site.common import clock
from reef_site.common.api.fields import (
    AnyText,
    Choice,
    Flag,
    JsonValue,
    ListOf,
    NamedChoice,
    Number,
    StoredJson,
    Text,
    Timestamp,
    WholeNumber,
)
from reef_site.common.api.rows import object_reader
from reef_site.common.api.serializers import Body, Query, ResponseBody
from registry.liveness import Liveness
from registry.models import VM, Role, Status, Watch
from registry.services import Registration
from vmtree.fields import AnyVM, Dna, NewVMId, SearchTerms, VMAlias
from vmtree.models import Category
from vmtree.serializers import NodeResponse

Json = dict[str, Any]
MAX_TEXT_LENGTH = 255
MAX_ADDRESS_LENGTH = 1000
MAX_PLACED = 1000
MAX_PAGE_SIZE = 1000
MAX_HEARTBEATS = 10_000


def _has_no_controls(text: str) -> bool:
    return not any(ord(sign) < 32 or 0xD800 <= ord(sign) < 0xE000 for sign in text)


NAME: Json = {"length": MAX_TEXT_LENGTH, "accepts": _has_no_controls}
ADDRESS: Json = {"length": MAX_ADDRESS_LENGTH, "accepts": _has_no_controls}

# -- responses -----------------------------------------------------------------------------------


class VMResponse(ResponseBody):
    """A registered VM."""

    id = Text()
    name = Text()
    role = Choice(Role.values)
    status = Choice(Status.values)
    address = Text()
    parentVmId = Text(source="parent_vm_id", allow_null=True)
    services = JsonValue("array")
    reefConfig = Dna(source="reef_config")
    registeredBy = Text(source="registered_by")
    registeredAt = Timestamp(source="registered_at")
    lastSeen = Timestamp(source="last_seen")
    metadata = JsonValue(required=False, allow_null=True)
    liveness = Choice(Liveness.values)
    vitals = JsonValue("object", required=False, help_text="Facts of the latest heartbeats.")

    example = {
        "id": "vm-7",
        "name": "builder",
        "role": "worker",
        "status": "running",
        "address": "vm-7.vm.vers.sh",
        "parentVmId": None,
        "services": [],
        "reefConfig": {"organs": ["store"], "capabilities": []},
        "registeredBy": "ada",
        "registeredAt": "2026-11-22T06:21:09.098Z",
        "lastSeen": "2026-11-22T06:25:10.120Z",
        "liveness": "live",
    }


class GapResponse(ResponseBody):
    """A time without a heartbeat."""

    began = Timestamp(source="began_at")
    ended = Timestamp(source="ended_at")
    status = Choice(Status.values)


class DeletedResponse(ResponseBody):
    deleted = Flag()


class HeartbeatResponse(ResponseBody):
    id = Text()
    lastSeen = Timestamp()
    nextBeatInMs = WholeNumber()
    reefConfigDiffers = Flag(required=False, help_text="Register again with the present DNA.")


class HeartbeatsResponse(ResponseBody):
    count = WholeNumber()
    unknown = ListOf(Text(), most=MAX_HEARTBEATS, help_text="Ids that are not registered.")
    lastSeen = Timestamp()
    nextBeatInMs = WholeNumber()
    reefConfigDiffers = ListOf(Text(), most=MAX_HEARTBEATS, required=False)


class RefusedResponse(ResponseBody):
    id = Text()
    error = Text()


class PlacedResponse(ResponseBody):
    placed = NodeResponse(many=True)
    count = WholeNumber()
    refused = RefusedResponse(many=True)


# What a VM has not is absent.
OPTIONAL = {"metadata": "has_metadata", "vitals": "vitals"}
_read_vm = object_reader(VMResponse, given=["liveness"], present=OPTIONAL)
gap_json = object_reader(GapResponse)


def vms_json(vms: Iterable[VM], at: datetime | None = None) -> list[Json]:
    """Return VMs as JSON with their liveness at this moment."""
    at = at or clock.now()
    grace = Watch.grace(at)
    return [vm_json(vm, at, grace=grace) for vm in vms]


def vm_json(vm: VM, at: datetime, *, grace: bool) -> Json:
    return _read_vm(vm, vm.liveness(at, grace=grace).value)


# -- requests ------------------------------------------------------------------------------------


class VMQuery(Query):
    role = AnyText(default="")
    status = AnyText(default="")
    parentVmId = AnyVM(source="parent_vm_id", default="")
    liveness = Choice(Liveness.values)
    q = SearchTerms(default="", help_text="Search terms, such as `silent role:worker under:<id>`.")
    limit = WholeNumber(least=1, most=MAX_PAGE_SIZE)
    cursor = AnyText()


class RegistrationBody(Body):
    """A registration; absent optional fields keep the values of an earlier one."""

    id = NewVMId(**NAME, blank=False)
    name = Text(**NAME, blank=False)
    role = NamedChoice(Role.values)
    address = Text(**ADDRESS, blank=False)
    registeredBy = Text(**NAME, source="registered_by", blank=False)
    parentVmId = VMAlias(
        **NAME, source="parent_vm_id", required=False, allow_null=True, help_text="null: no parent"
    )
    services = StoredJson("array", required=False)
    reefConfig = Dna(source="reef_config", required=False)
    metadata = StoredJson(required=False)

    ignored = ("status",)
    example = {
        "id": "vm-7",
        "name": "builder",
        "role": "worker",
        "address": "vm-7.vm.vers.sh",
        "registeredBy": "ada",
    }

    def to_internal_value(self, data: Mapping[str, Any]) -> Json:
        """Skip optional fields with values that older servers took for absent."""
        optional = ("services", "reefConfig", "metadata")
        absent = [name for name in optional if data.get(name) in (None, "", 0, False)]
        return super().to_internal_value({k: data[k] for k in data if k not in absent})


class ChangeBody(Body):
    """A change of a registration."""

    status = NamedChoice(Status.values, required=False)
    name = Text(**NAME, required=False)
    address = Text(**ADDRESS, required=False)
    services = StoredJson("array", required=False)
    reefConfig = Dna(source="reef_config", required=False)
    metadata = StoredJson(required=False, allow_null=True)
    parentVmId = VMAlias(**NAME, source="parent_vm_id", required=False, allow_null=True)

    ignored = ("id", "role", "registeredBy")
    example = {"status": "stopped"}


class HeartbeatBody(Body):
    """Facts that a VM reports; all are optional. `heartbeat_bodies` parses them."""

    status = Choice(Status.values, required=False)
    services = JsonValue("array", required=False)
    load = Number(required=False)
    disk = Number(required=False)
    reefConfigDigest = Text(required=False)
    clockSkewSeconds = Number(required=False)
    machine = Text(required=False)
    at = Timestamp(required=False, help_text="The VM's own clock.")

    example = {"load": 0.4}


class ManyHeartbeatsBody(Body):
    """`ids` or `beats`, together up to 10,000. `heartbeat_bodies` parses them."""

    ids = ListOf(Text(), most=MAX_HEARTBEATS, required=False)
    beats = JsonValue("array", required=False)

    example = {"ids": ["vm-7", "vm-8"]}


class PlacementBody(Body):
    ids = ListOf(VMAlias(**NAME), least=1, most=MAX_PLACED, of="ids")
    parentVmId = VMAlias(**NAME, source="under", default="", allow_null=True)
    category = Choice(Category.values, default="", allow_null=True)

    example = {"ids": ["vm-7"], "parentVmId": "vm-1"}


def to_registration(values: Json) -> Registration:
    """Return the command of a valid RegistrationBody."""
    parent = values.pop("parent_vm_id", "")
    return Registration(**values, parent_vm_id=parent or None, clears_parent=parent is None)


def to_changes(values: Json) -> Json:
    """Return columns and values of a valid ChangeBody."""
    if "metadata" in values:
        values["has_metadata"] = True
    if "parent_vm_id" in values:
        values["parent_vm_id"] = values["parent_vm_id"] or None
    return values
