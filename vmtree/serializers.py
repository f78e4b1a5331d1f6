"""Nodes, revisions and tokens as JSON, and request bodies as commands, in the wire format."""

from __future__ import annotations

from typing import Any

from reef_site.common.api.fields import Choice, Flag, Text, Timestamp
from reef_site.common.api.rows import object_reader
from reef_site.common.api.serializers import Answer
from reef_site.common.errors import BadInput
from reef_site.common.request_values import text_of
from vmtree import aliases, ids
from vmtree.dna import empty, parse_dna
from vmtree.fields import Dna
from vmtree.models import Category, Node, NodeToken, Revision
from vmtree.services import UNCHANGED, NewNode, NodeChange

Json = dict[str, Any]
MAX_LENGTH = 255
MAX_PAGE_SIZE = 10_000


class NodeAnswer(Answer):
    """A node of the tree."""

    vmId = Text(source="vm_id")
    name = Text()
    parentVmId = Text(source="parent_vm_id", allow_null=True)
    category = Choice(Category.values)
    reefConfig = Dna(source="reef_config", allow_null=True)
    createdAt = Timestamp(source="created_at")
    updatedAt = Timestamp(source="updated_at")
    removedAt = Timestamp(source="removed_at", required=False)
    destroyed = Flag(source="destroyed_at", required=False, help_text="Its lieutenant is gone.")
    destroyedAt = Timestamp(source="destroyed_at", required=False)

    example = {
        "vmId": "vm-7",
        "name": "builder",
        "parentVmId": None,
        "category": "agent_vm",
        "reefConfig": {"organs": ["store"], "capabilities": []},
        "createdAt": "2026-11-22T06:21:09.098Z",
        "updatedAt": "2026-11-22T06:21:09.098Z",
    }


_read_node = object_reader(NodeAnswer)


def node_json(node: Node) -> Json:
    """Return a node as JSON, in the same form as the pieces of `rows`."""
    data = _read_node(node)
    if not node.removed_at:
        del data["removedAt"]
    if node.destroyed_at:
        data["destroyed"] = True
    else:
        del data["destroyed"], data["destroyedAt"]
    return data


def revision_json(revision: Revision) -> Json:
    """Return a revision as JSON."""
    return {
        "id": revision.pk,
        "at": revision.at,
        "actor": revision.actor,
        "what": revision.what,
        "name": revision.name,
        "category": revision.category,
        "parentVmId": revision.parent_vm_id,
        "reefConfig": revision.reef_config,
    }


def token_json(token: NodeToken) -> Json:
    """Return what is known of a token as JSON."""
    return {"madeAt": token.made_at, "madeBy": token.made_by, "revokedAt": token.revoked_at}


# -- parsing requests ----------------------------------------------------------------------------


def parse_new_node(data: Json) -> NewNode:
    """Parse the body of a POST. Raises BadInput with the texts of the contract."""
    name = data.get("name")
    if name is None or (isinstance(name, str) and not name.strip()):
        raise BadInput("name is required", "name")
    config = data.get("reefConfig")
    if "id" in data and "vmId" not in data:
        raise BadInput("id: is called vmId here", "id")
    vm_id = _vm_id(data.get("vmId"), "vmId")
    ids.check_new_id(vm_id, "vmId")
    return NewNode(
        name=text_of(name, "name", length=MAX_LENGTH),
        category=_category(data.get("category", "undefined")),
        vm_id=vm_id,
        parent_vm_id=aliases.resolve(_vm_id(data.get("parentVmId"), "parentVmId")),
        dna=empty() if config is None else parse_dna(config),
    )


def parse_change(data: Json) -> NodeChange:
    """Parse the body of a PATCH; absent keys stay unchanged. Raises BadInput."""
    config = data.get("reefConfig")
    return NodeChange(
        name=text_of(data["name"], "name", length=MAX_LENGTH) if "name" in data else UNCHANGED,
        category=_category(data["category"]) if "category" in data else UNCHANGED,
        dna=(None if config is None else parse_dna(config)) if "reefConfig" in data else UNCHANGED,
        parent_vm_id=(
            aliases.resolve(_vm_id(data["parentVmId"], "parentVmId")) or None
            if "parentVmId" in data
            else UNCHANGED
        ),
    )


def _category(value: object) -> str:
    if not isinstance(value, str) or value not in Category.values:
        shown = "null" if value is None else value
        raise BadInput(f"invalid category: {shown}", "category")
    return value


def _vm_id(value: object, field: str) -> str:
    """Return an id as text. A number becomes its digits, None becomes empty."""
    if value is None:
        return ""
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    text = text_of(value, field, length=MAX_LENGTH)
    if any(not sign.isprintable() for sign in text) or text.endswith("/"):
        raise BadInput(f"{field}: must be printable and not end with a slash", field)
    return text
