"""Requests and responses of the tree's API, in the wire format."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from reef_site.common.api.fields import (
    AnyText,
    Choice,
    Cursor,
    Flag,
    JsonValue,
    NamedChoice,
    Text,
    Timestamp,
    WholeNumber,
)
from reef_site.common.api.rows import object_reader
from reef_site.common.api.serializers import Body, Query, ResponseBody
from reef_site.common.errors import BadInput
from vmtree.dna import empty
from vmtree.fields import AnyVM, Dna, NewNodeId, NodeAlias, SearchTerms
from vmtree.models import Category, Node, Revision

Json = dict[str, Any]
MAX_LENGTH = 255
MAX_PAGE_SIZE = 10_000
MAX_DEPTH = 1_000_000


class NodeResponse(ResponseBody):
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


_read_node = object_reader(
    NodeResponse,
    present={
        "removedAt": "removed_at",
        "destroyed": "destroyed_at",
        "destroyedAt": "destroyed_at",
    },
)


def node_json(node: Node) -> Json:
    """Return a node as JSON, in the same form as the pieces of `rows`."""
    data = _read_node(node)
    if node.destroyed_at:
        data["destroyed"] = True
    return data


class RevisionResponse(ResponseBody):
    """A state of a node, and who made it so."""

    id = WholeNumber()
    at = Timestamp()
    actor = Text()
    what = Choice(Revision.What.values)
    name = Text()
    category = Choice(Category.values)
    parentVmId = Text(source="parent_vm_id", allow_null=True)
    reefConfig = Dna(source="reef_config", allow_null=True)


class TokenResponse(ResponseBody):
    """Times at which a token was issued and revoked."""

    madeAt = Timestamp(source="made_at")
    madeBy = Text(source="made_by")
    revokedAt = Timestamp(source="revoked_at", allow_null=True)


class IssuedResponse(ResponseBody):
    vmId = Text()
    token = Text()


class RevokedResponse(ResponseBody):
    revoked = WholeNumber()


class RemovedResponse(ResponseBody):
    deleted = Flag()
    count = WholeNumber(required=False, help_text="Removed nodes of a subtree.")


class DiffResponse(ResponseBody):
    """Parts that only the second VM has (`added`), and only the first one (`removed`)."""

    added = Dna()
    removed = Dna()


class AncestorsResponse(ResponseBody):
    ancestors = NodeResponse(many=True)


class DescendantsResponse(ResponseBody):
    descendants = NodeResponse(many=True)


class ChildrenResponse(ResponseBody):
    children = NodeResponse(many=True)


class TreeResponse(ResponseBody):
    """`tree`, or with `?flat=true` or `?since=` the list `vms`."""

    tree = JsonValue("array", required=False, help_text="Each has `vm` and `children`.")
    vms = NodeResponse(many=True, required=False)
    count = WholeNumber(help_text="Without `vms` that of the whole tree.")
    until = Timestamp(required=False, help_text="`since` of the next request.")
    at = Timestamp(required=False)


class StatsResponse(ResponseBody):
    total = WholeNumber()
    byCategory = JsonValue("object")
    roots = WholeNumber()
    destroyed = WholeNumber(required=False)


revision_json = object_reader(RevisionResponse)
token_json = object_reader(TokenResponse)


# -- requests ------------------------------------------------------------------------------------


class RemovedQuery(Query):
    includeRemoved = Flag(source="removed", default=False)


class NodesQuery(RemovedQuery):
    category = AnyText()
    parentVmId = AnyVM(source="parent")
    q = SearchTerms(default="", help_text="Search terms, such as `organ:store under:<id>`.")
    limit = WholeNumber(least=1, most=MAX_PAGE_SIZE)
    cursor = AnyText()


class RemovalQuery(Query):
    subtree = Flag(default=False, help_text="Remove everything below it, too.")
    confirm = WholeNumber(help_text="The number of nodes that will be removed.")


class HistoryQuery(Query):
    limit = WholeNumber(least=1, most=1000, default=200)
    cursor = Cursor()
    before = Cursor(older_name=True)


class TreeQuery(RemovedQuery):
    root = AnyVM()  # type: ignore[assignment]
    flat = Flag(default=False, help_text="Return a list.")
    depth = WholeNumber(most=MAX_DEPTH)
    since = Timestamp(help_text="Only nodes changed since, removed ones included.")
    at = Timestamp(help_text="The tree as it was then.")


class NewNodeBody(Body):
    name = Text(length=MAX_LENGTH, blank=False)
    category = NamedChoice(Category.values)
    vmId = NewNodeId(length=MAX_LENGTH, source="vm_id", default="")
    parentVmId = NodeAlias(length=MAX_LENGTH, source="parent_vm_id", default="")
    reefConfig = Dna(source="dna", default=None, allow_null=True)

    ignored = ("id",)
    example = {"name": "builder", "category": "agent_vm"}

    def to_internal_value(self, data: Mapping[str, Any]) -> Json:
        if "id" in data and "vmId" not in data:
            raise BadInput("id: is called vmId here", "id")
        values = super().to_internal_value(data)
        return {**values, "dna": values["dna"] or empty()}


class NodeChangeBody(Body):
    name = Text(length=MAX_LENGTH, required=False)
    category = NamedChoice(Category.values, required=False)
    parentVmId = NodeAlias(length=MAX_LENGTH, source="parent_vm_id", required=False)
    reefConfig = Dna(source="dna", required=False, allow_null=True)

    example = {"name": "builder 2"}

    def to_internal_value(self, data: Mapping[str, Any]) -> Json:
        values = super().to_internal_value(data)
        if "parent_vm_id" in values:
            values["parent_vm_id"] = values["parent_vm_id"] or None
        return values
