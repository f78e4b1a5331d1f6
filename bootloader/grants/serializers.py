"""Requests and responses of the grants' API, in the wire format."""

from __future__ import annotations

from typing import Any

from bootloader.grants import services as grants
from bootloader.serializers import TextList
from reef_site.common.api.fields import AnyText, ListOf, Text, WholeNumber
from reef_site.common.api.rows import object_reader
from reef_site.common.api.serializers import Body, ResponseBody

Json = dict[str, Any]
MAX_PROFILES = 10_000


class GrantResponse(ResponseBody):
    """The grant of a node."""

    vmId = Text(source="node.vm_id")
    vms = WholeNumber(help_text="How many more VMs it may provision.")
    profiles = ListOf(Text(), most=MAX_PROFILES, help_text="Types; an empty list allows all.")
    levels = WholeNumber(help_text="How far below the node VMs may be.")


class OneGrantResponse(ResponseBody):
    grant = GrantResponse()

    example = {"grant": {"vmId": "vm-7", "vms": 10, "profiles": ["swarm"], "levels": 1}}


grant_json = object_reader(GrantResponse)


class ProfileTypes(TextList):
    """Types of profiles without duplicates; null counts as an empty list."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(AnyText(), most=MAX_PROFILES, **kwargs)

    def to_internal_value(self, data: Any) -> list[Any]:
        return [] if data is None else list(dict.fromkeys(super().to_internal_value(data)))

    def schema(self) -> Json:
        return {**super().schema(), "type": ["array", "null"]}


class GrantBody(Body):
    vms = WholeNumber(most=grants.MAX_VMS)
    profiles = ProfileTypes(source="kinds", default=list, help_text="Absent or empty: all.")
    levels = WholeNumber(least=1, most=grants.MAX_LEVELS, default=1)

    example = {"vms": 10, "profiles": ["swarm"]}
