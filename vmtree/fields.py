"""Fields of the API that all apps above the tree share."""

from __future__ import annotations

from typing import Any

from reef_site.common.api.fields import AnyText, JsonValue, Text
from vmtree import aliases, ids
from vmtree.dna import KEYS, MAX_NAME_LENGTH, MAX_NAMES, parse_dna

_NAMES = {
    "type": "array",
    "maxItems": MAX_NAMES,
    "items": {"type": "string", "maxLength": MAX_NAME_LENGTH},
}


class Dna(JsonValue):
    """A VM's composition: `organs` and `capabilities`."""

    def to_internal_value(self, data: Any) -> Any:
        return parse_dna(data, self.field_name or "reefConfig")

    def schema(self) -> dict[str, Any]:
        return {
            "type": "object",
            "properties": dict.fromkeys(KEYS, _NAMES),
            "additionalProperties": False,
        }


class VMAlias(Text):
    """The id of a VM that may be a lieutenant's `vmId` (`local-<name>`)."""

    def to_internal_value(self, data: Any) -> str:
        return aliases.resolve(super().to_internal_value(data))


class AnyVM(AnyText):
    """The id or alias of a VM in a query; an unknown one finds nothing."""

    def to_internal_value(self, data: Any) -> str:
        return aliases.resolve(super().to_internal_value(data))


class SearchTerms(Text):
    """Search terms, which `vmtree.search` parses."""

    def to_internal_value(self, data: Any) -> str:
        return str(data)


class NewVMId(Text):
    """The id of a VM to be created: it must be reachable below every route."""

    def to_internal_value(self, data: Any) -> str:
        vm_id = super().to_internal_value(data)
        ids.check_new_id(vm_id, self.field_name or "id")
        return vm_id


class NodeId(Text):
    """The id of a node: a number stands for its digits, null and an absent one for no id."""

    def to_internal_value(self, data: Any) -> str:
        if data is None:
            return ""
        if isinstance(data, int) and not isinstance(data, bool):
            data = str(data)
        text = super().to_internal_value(data)
        if any(not sign.isprintable() for sign in text) or text.endswith("/"):
            self.refuse("must be printable and not end with a slash")
        return text

    def schema(self) -> dict[str, Any]:
        return {**super().schema(), "type": ["string", "integer", "null"]}


class NewNodeId(NodeId):
    """The id of a node to be created; empty for a generated one."""

    def to_internal_value(self, data: Any) -> str:
        vm_id = super().to_internal_value(data)
        ids.check_new_id(vm_id, self.field_name or "id")
        return vm_id


class NodeAlias(NodeId):
    """The id of a node, or a lieutenant's `vmId`."""

    def to_internal_value(self, data: Any) -> str:
        return aliases.resolve(super().to_internal_value(data))
