"""HTTP API of the tree, `/vm-tree/…`, as the wire contract defines it."""

from __future__ import annotations

from typing import Any

import orjson
from django.db.models import Q
from django.http import HttpResponse
from django.urls import re_path
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from reef_site.common import clock
from reef_site.common.api.endpoints import endpoint
from reef_site.common.api.fields import Cursor, Text
from reef_site.common.api.serializers import list_of
from reef_site.common.clock import format_timestamp
from reef_site.common.errors import BadInput, NotFound
from reef_site.common.json_sql import Piece
from reef_site.common.paging import take_page_by_key
from reef_site.common.request_names import takes_anything
from reef_site.common.text import parse_number
from vmtree import dna, json_rows, permissions, search, services, snapshot_api, views
from vmtree.fast_routes import BOTH_NOT_FOUND, UNTIL_OVERLAP
from vmtree.models import Node, NodeQuerySet, Revision, Trait
from vmtree.serializers import (
    AncestorsResponse,
    ChildrenResponse,
    DescendantsResponse,
    DiffResponse,
    HistoryQuery,
    IssuedResponse,
    NewNodeBody,
    NodeChangeBody,
    NodeResponse,
    NodesQuery,
    RemovalQuery,
    RemovedQuery,
    RemovedResponse,
    RevisionResponse,
    RevokedResponse,
    StatsResponse,
    TokenResponse,
    TreeQuery,
    TreeResponse,
    node_json,
    revision_json,
    token_json,
)
from vmtree.services import NewNode, NodeChange

Json = dict[str, Any]
NOT_FOUND = {404: "VM not found"}
FORBIDDEN = {403: f"rule: {permissions.RULE}. vm-7 may not read vm-8"}
DUPLICATE = {409: "VM 'vm-7' exists already"}
BUSY = {409: "confirm: 3 VMs would be removed, not 2"}


def _json(**parts: str | int) -> HttpResponse:
    """Return a JSON object from ready-made JSON values."""
    body = ",".join(f'"{key}":{value}' for key, value in parts.items())
    return HttpResponse(f"{{{body}}}", content_type="application/json")


def _json_text(value: str | None) -> str:
    return orjson.dumps(value).decode()


def _nodes(removed: bool) -> NodeQuerySet:
    """Return the active nodes, or all."""
    nodes = Node.objects.all()
    return nodes if removed else nodes.active()


def _find(request: Request, vm_id: str) -> Node:
    return services.find(vm_id, removed=RemovedQuery.parse(request)["removed"])


class TreeView(APIView):
    """Base of the views below. Permissions are checked in `vmtree.services`."""

    checks_permission = True


class VMs(TreeView):
    """`/vm-tree/vms`"""

    @endpoint(query=NodesQuery, response=list_of("vms", NodeResponse, next_page=Text))
    def get(self, request: Request) -> HttpResponse:
        """List nodes, oldest first; with `?limit=` in pages."""
        query = NodesQuery.parse(request)
        nodes = _nodes(query["removed"])
        if query["category"]:
            nodes = nodes.filter(category=query["category"])
        if query["parent"]:
            nodes = nodes.filter(parent__vm_id=query["parent"])
        found = _after(search.narrow(nodes, query["q"]), query["cursor"])
        limit = query["limit"]
        if not limit:
            pieces = json_rows.pieces_of(found)
            return _json(vms=json_rows.json_list(pieces), count=len(pieces))
        pieces = json_rows.pieces_of(found[: limit + 1])
        more, pieces = len(pieces) > limit, pieces[:limit]
        cursor = str(pieces[-1].key) if more else None
        return _json(vms=json_rows.json_list(pieces), count=len(pieces), next=_json_text(cursor))

    @endpoint(body=NewNodeBody, response=NodeResponse, status=201, errors=DUPLICATE, lenient=True)
    def post(self, request: Request) -> Response:
        """Create a node."""
        node = services.create(NewNode(**NewNodeBody.parse(request)), by=request.user)
        return Response(node_json(node), status=201)


def _after(nodes: search.Nodes, cursor: str | None) -> search.Nodes:
    """Return the nodes behind the last one of the previous page. Raises BadInput."""
    if not cursor:
        return nodes
    key = parse_number(cursor)
    last = None if key is None else Node.objects.filter(pk=key).first()
    if last is None:
        raise BadInput("cursor: must be the `next` of an earlier page", "cursor")
    same = Q(created_at=last.created_at, pk__gt=last.pk)
    return nodes.filter(same | Q(created_at__gt=last.created_at))


class VMDetail(TreeView):
    """`/vm-tree/vms/<id>`"""

    @endpoint(query=RemovedQuery, response=NodeResponse, errors=NOT_FOUND)
    def get(self, request: Request, vm_id: str) -> Response:
        """Return one node."""
        return Response(node_json(_find(request, vm_id)))

    @endpoint(body=NodeChangeBody, response=NodeResponse, errors=NOT_FOUND)
    def patch(self, request: Request, vm_id: str) -> Response:
        """Change name, category, DNA or parent."""
        change = NodeChange(**NodeChangeBody.parse(request))
        return Response(node_json(services.change(vm_id, change, by=request.user)))

    @endpoint(query=RemovalQuery, response=RemovedResponse, errors=NOT_FOUND | BUSY)
    def delete(self, request: Request, vm_id: str) -> Response:
        """Remove the node; with `?subtree=true&confirm=<count>` also its descendants.

        A removed subtree is deregistered, too.
        """
        query = RemovalQuery.parse(request)
        count = services.remove(vm_id, by=request.user, guarded=True, **query)
        return Response({"deleted": True, **({"count": count} if query["subtree"] else {})})


class Ancestors(TreeView):
    """`/vm-tree/vms/<id>/ancestors`"""

    @endpoint(query=RemovedQuery, response=AncestorsResponse, errors=NOT_FOUND)
    def get(self, request: Request, vm_id: str) -> HttpResponse:
        """List the ancestors from the root down to the VM itself."""
        pieces = json_rows.ancestor_pieces(_find(request, vm_id))
        return _json(ancestors=json_rows.json_list(pieces))


class Descendants(TreeView):
    """`/vm-tree/vms/<id>/descendants`"""

    @endpoint(query=RemovedQuery, response=DescendantsResponse, errors=NOT_FOUND)
    def get(self, request: Request, vm_id: str) -> HttpResponse:
        """List the descendants breadth first, without the VM itself."""
        node = _find(request, vm_id)
        pieces = json_rows.breadth_first(json_rows.descendant_pieces(node), node.pk)
        return _json(descendants=json_rows.json_list(pieces[1:]))


class Children(TreeView):
    """`/vm-tree/vms/<id>/children`"""

    @endpoint(query=RemovedQuery, response=ChildrenResponse, errors=NOT_FOUND)
    def get(self, request: Request, vm_id: str) -> HttpResponse:
        """List the children, oldest first."""
        removed = RemovedQuery.parse(request)["removed"]
        children = _nodes(removed).filter(parent=services.find(vm_id, removed=removed))
        return _json(children=json_rows.json_list(json_rows.pieces_of(children)))


class Diff(TreeView):
    """`/vm-tree/vms/<a>/diff/<b>`"""

    @endpoint(query=RemovedQuery, response=DiffResponse, errors={404: BOTH_NOT_FOUND})
    def get(self, request: Request, vm_id: str, other: str) -> Response:
        """Return the organs and capabilities that the second VM adds and lacks."""
        nodes = _nodes(RemovedQuery.parse(request)["removed"])
        found = {node.vm_id: node for node in nodes.filter(vm_id__in=[vm_id, other])}
        if not {vm_id, other} <= found.keys():
            raise NotFound(BOTH_NOT_FOUND)
        return Response(dna.diff(found[vm_id].reef_config, found[other].reef_config))


class History(TreeView):
    """`/vm-tree/vms/<id>/history`"""

    @endpoint(
        query=HistoryQuery,
        response=list_of("history", RevisionResponse, next_page=Cursor),
        errors=NOT_FOUND,
    )
    def get(self, request: Request, vm_id: str) -> Response:
        """List revisions, newest first, also of removed VMs."""
        query = HistoryQuery.parse(request)
        found = Revision.objects.filter(node=services.find(vm_id, removed=True))
        page, following = take_page_by_key(found, **query, newest_first=True)
        history = [revision_json(each) for each in page]
        return Response({"history": history, "count": len(history), "next": following})


class Token(TreeView):
    """`/vm-tree/vms/<id>/token`"""

    @endpoint(response=list_of("tokens", TokenResponse), errors=NOT_FOUND | FORBIDDEN)
    def get(self, request: Request, vm_id: str) -> Response:
        """List when tokens were issued and revoked; the tokens themselves are not stored."""
        found = [token_json(each) for each in services.tokens_of(vm_id, by=request.user)]
        return Response({"tokens": found, "count": len(found)})

    @endpoint(response=IssuedResponse, status=201, errors=NOT_FOUND)
    def post(self, request: Request, vm_id: str) -> Response:
        """Issue a token, shown only this once; it replaces older ones."""
        node, token = services.issue_token(vm_id, by=request.user)
        return Response({"vmId": node.vm_id, "token": token}, status=201)

    @endpoint(response=RevokedResponse, errors=NOT_FOUND)
    def delete(self, request: Request, vm_id: str) -> Response:
        """Revoke the tokens of this VM and of its descendants."""
        return Response({"revoked": services.revoke_tokens(vm_id, by=request.user)})


class Tree(TreeView):
    """`/vm-tree/tree`"""

    @endpoint(query=TreeQuery, response=TreeResponse)
    def get(self, request: Request) -> HttpResponse:
        """Return the current tree.

        `?at=` returns it as of that time; `?since=` only nodes changed since, including removed
        ones. `?root=` and `?depth=` limit it, `?flat=true` returns a list.
        """
        query = TreeQuery.parse(request)
        if query["at"] and query["since"]:
            raise BadInput("since: does not go together with at", "since")
        if query["at"]:
            return _past_tree(query)
        until = format_timestamp(clock.now() - UNTIL_OVERLAP)
        nodes = _nodes(query["removed"])
        node = nodes.filter(vm_id=query["root"]).first() if query["root"] else None
        pieces = [] if query["root"] and node is None else _current_pieces(query, node)
        if query["flat"] or query["since"]:
            return _json(
                vms=json_rows.json_list(pieces), count=len(pieces), until=_json_text(until)
            )
        is_whole = not query["root"] and not query["depth"]
        count = len(pieces) if is_whole else nodes.count()
        return _json(tree=json_rows.json_tree(pieces, node.pk if node else None), count=count)


def _current_pieces(query: Json, node: Node | None) -> list[Piece]:
    """Return the nodes below `node` (or all) that the query asks for."""
    depth, since = query["depth"], query["since"]
    removed = query["removed"] or since is not None
    if node is None and depth is None:
        nodes = _nodes(removed)
        return json_rows.pieces_of(nodes.filter(updated_at__gte=since) if since else nodes)
    return json_rows.descendant_pieces(node, depth=depth, since=since, removed=removed)


def _past_tree(query: Json) -> HttpResponse:
    """Return the tree as of `at`, from the revisions."""
    at, root, depth = query["at"], query["root"], query["depth"]
    whole = json_rows.pieces_at(at)
    pieces = json_rows.subtree(whole, root, depth) if root or depth is not None else whole
    shown = _json_text(format_timestamp(at))
    if query["flat"]:
        return _json(vms=json_rows.json_list(pieces), count=len(pieces), at=shown)
    return _json(tree=json_rows.json_tree(pieces, root), count=len(whole), at=shown)


class Find(TreeView):
    """`/vm-tree/find/organ/<name>` and `/vm-tree/find/capability/<name>`"""

    @endpoint(query=RemovedQuery, response=list_of("vms", NodeResponse))
    def get(self, request: Request, kind: str, name: str) -> HttpResponse:
        """List VMs with exactly this organ or capability, oldest first."""
        nodes = _nodes(RemovedQuery.parse(request)["removed"])
        pieces = json_rows.pieces_of(nodes.with_trait(Trait.Kind(kind), name))
        return _json(vms=json_rows.json_list(pieces), count=len(pieces))


class Stats(TreeView):
    """`/vm-tree/stats`"""

    @endpoint(response=StatsResponse)
    def get(self, request: Request) -> Response:
        """Count active nodes."""
        return Response(services.stats())


class Panel(TreeView):
    """`/vm-tree/_panel`"""

    @endpoint(response="text/html")
    def get(self, request: Request) -> HttpResponse:
        """Return the top of the tree as an HTML fragment for other pages."""
        return HttpResponse(views.panel_html(request._request))


class UnknownPath(TreeView):
    """Unknown path below `/vm-tree`: 404 for authenticated callers, else 401."""

    @takes_anything
    def _refuse(self, request: Request, **_: Any) -> Response:
        raise NotFound("not found")

    get = post = put = patch = delete = _refuse


_VM = r"^vm-tree/vms/(?P<vm_id>.+?)"

urlpatterns = [
    re_path(r"^vm-tree/vms/?$", VMs.as_view()),
    re_path(rf"{_VM}/ancestors/?$", Ancestors.as_view()),
    re_path(rf"{_VM}/descendants/?$", Descendants.as_view()),
    re_path(rf"{_VM}/children/?$", Children.as_view()),
    re_path(rf"{_VM}/history/?$", History.as_view()),
    re_path(rf"{_VM}/token/?$", Token.as_view()),
    re_path(rf"{_VM}/diff/(?P<other>.+?)/?$", Diff.as_view()),
    re_path(rf"{_VM}/?$", VMDetail.as_view()),
    re_path(r"^vm-tree/tree/?$", Tree.as_view()),
    re_path(r"^vm-tree/find/(?P<kind>organ|capability)/(?P<name>.+?)/?$", Find.as_view()),
    re_path(r"^vm-tree/stats/?$", Stats.as_view()),
    re_path(r"^vm-tree/_panel/?$", Panel.as_view(), name="vm-tree-panel"),
    *snapshot_api.urlpatterns,
    re_path(r"^vm-tree(?:/.*)?$", UnknownPath.as_view()),
]
