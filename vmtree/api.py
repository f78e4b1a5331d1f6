"""HTTP API of the tree, `/vm-tree/…`, as the wire contract defines it."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import orjson
from django.db.models import Q
from django.http import HttpResponse
from django.urls import re_path
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from reef_site.common import clock
from reef_site.common.clock import format_timestamp
from reef_site.common.errors import BadInput, NotFound
from reef_site.common.paging import take_page
from reef_site.common.request_names import takes, takes_anything
from reef_site.common.request_values import (
    body_of,
    query_cursor,
    query_flag,
    query_limit,
    query_moment,
    query_number,
)
from reef_site.common.text import parse_number
from vmtree import aliases, dna, json_rows, search, services, snapshot_api, views
from vmtree.models import Node, NodeQuerySet, Revision, Trait
from vmtree.serializers import (
    MAX_PAGE_SIZE,
    node_json,
    parse_change,
    parse_new_node,
    revision_json,
    token_json,
)

# Subtracted from `until` of a flat tree: transactions that are open now may commit older rows.
UNTIL_OVERLAP = timedelta(seconds=5)
MAX_DEPTH = 1_000_000
MAX_REVISIONS = 1000


def _json(**parts: str | int) -> HttpResponse:
    """Return a JSON object from ready-made JSON values."""
    body = ",".join(f'"{key}":{value}' for key, value in parts.items())
    return HttpResponse(f"{{{body}}}", content_type="application/json")


def _json_text(value: str | None) -> str:
    return orjson.dumps(value).decode()


def _nodes(request: Request) -> NodeQuerySet:
    """Return the nodes that a request covers: active ones, or all with `?includeRemoved=true`."""
    nodes = Node.objects.all()
    return nodes if query_flag(request, "includeRemoved") else nodes.active()


def _find(request: Request, vm_id: str) -> Node:
    return services.find(vm_id, removed=query_flag(request, "includeRemoved"))


class TreeView(APIView):
    """Base of the views below. Permissions are checked in `vmtree.services`."""

    checks_permission = True


class VMs(TreeView):
    """`/vm-tree/vms`"""

    @takes(query=("category", "parentVmId", "includeRemoved", "q", "limit", "cursor"))
    def get(self, request: Request) -> HttpResponse:
        """List nodes, oldest first.

        Narrow with `?category= parentVmId= q= includeRemoved=`; page with `?limit= cursor=`.
        """
        params = request.query_params
        nodes = _nodes(request)
        if category := params.get("category"):
            nodes = nodes.filter(category=category)
        if parent := params.get("parentVmId"):
            nodes = nodes.filter(parent__vm_id=aliases.resolve(parent))
        found = search.narrow(nodes, params.get("q", ""))
        limit = query_limit(request, most=MAX_PAGE_SIZE, default=0)
        if not limit:
            pieces = json_rows.pieces_of(_after(found, params.get("cursor", "")))
            return _json(vms=json_rows.json_list(pieces), count=len(pieces))
        pieces = json_rows.pieces_of(_after(found, params.get("cursor", ""))[: limit + 1])
        more, pieces = len(pieces) > limit, pieces[:limit]
        cursor = str(pieces[-1].key) if more else None
        return _json(vms=json_rows.json_list(pieces), count=len(pieces), next=_json_text(cursor))

    @takes(body=("name", "category", "vmId", "id", "parentVmId", "reefConfig"), lenient=True)
    def post(self, request: Request) -> Response:
        """Create a node."""
        node = services.create(parse_new_node(body_of(request)), by=request.user)
        return Response(node_json(node), status=201)


def _after(nodes: search.Nodes, cursor: str) -> search.Nodes:
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

    @takes(query=("includeRemoved",))
    def get(self, request: Request, vm_id: str) -> Response:
        return Response(node_json(_find(request, vm_id)))

    @takes(body=("name", "category", "parentVmId", "reefConfig"))
    def patch(self, request: Request, vm_id: str) -> Response:
        """Change name, category, DNA or parent."""
        node = services.change(vm_id, parse_change(body_of(request)), by=request.user)
        return Response(node_json(node))

    @takes(query=("subtree", "confirm"))
    def delete(self, request: Request, vm_id: str) -> Response:
        """Remove the node; with `?subtree=true&confirm=<count>` also its descendants.

        A removed subtree is deregistered, too.
        """
        subtree = query_flag(request, "subtree")
        confirm = query_number(request, "confirm")
        count = services.remove(
            vm_id, by=request.user, subtree=subtree, confirm=confirm, guarded=True
        )
        return Response({"deleted": True, "count": count} if subtree else {"deleted": True})


class Ancestors(TreeView):
    """`/vm-tree/vms/<id>/ancestors`"""

    @takes(query=("includeRemoved",))
    def get(self, request: Request, vm_id: str) -> HttpResponse:
        """List the ancestors from the root down to the VM itself."""
        return _json(
            ancestors=json_rows.json_list(json_rows.ancestor_pieces(_find(request, vm_id)))
        )


class Descendants(TreeView):
    """`/vm-tree/vms/<id>/descendants`"""

    @takes(query=("includeRemoved",))
    def get(self, request: Request, vm_id: str) -> HttpResponse:
        """List the descendants breadth first, without the VM itself."""
        node = _find(request, vm_id)
        return _json(
            descendants=json_rows.json_list(
                json_rows.breadth_first(json_rows.descendant_pieces(node), node.pk)[1:]
            )
        )


class Children(TreeView):
    """`/vm-tree/vms/<id>/children`"""

    @takes(query=("includeRemoved",))
    def get(self, request: Request, vm_id: str) -> HttpResponse:
        """List the children, oldest first."""
        children = _nodes(request).filter(parent=_find(request, vm_id))
        return _json(children=json_rows.json_list(json_rows.pieces_of(children)))


class Diff(TreeView):
    """`/vm-tree/vms/<a>/diff/<b>`"""

    @takes(query=("includeRemoved",))
    def get(self, request: Request, vm_id: str, other: str) -> Response:
        """Return the organs and capabilities that the second VM adds and lacks."""
        found = {node.vm_id: node for node in _nodes(request).filter(vm_id__in=[vm_id, other])}
        if not {vm_id, other} <= found.keys():
            raise NotFound("One or both VMs not found")
        return Response(dna.diff(found[vm_id].reef_config, found[other].reef_config))


class History(TreeView):
    """`/vm-tree/vms/<id>/history`"""

    @takes(query=("limit", "cursor", "before"))
    def get(self, request: Request, vm_id: str) -> Response:
        """List revisions, newest first, also of removed VMs. Page with `?limit=` (200) and
        `?cursor=`.
        """
        limit = query_limit(request, most=MAX_REVISIONS, default=200)
        found = Revision.objects.filter(node=services.find(vm_id, removed=True)).order_by("-id")
        if before := query_cursor(request, "before"):
            found = found.filter(pk__lt=before)
        page, more = take_page(found, limit)
        history = [revision_json(each) for each in page]
        last = page[-1].pk if more else None
        return Response({"history": history, "count": len(history), "next": last})


class Token(TreeView):
    """`/vm-tree/vms/<id>/token`"""

    def get(self, request: Request, vm_id: str) -> Response:
        """List when tokens were issued and revoked; the tokens themselves are not stored."""
        found = [token_json(each) for each in services.tokens_of(vm_id, by=request.user)]
        return Response({"tokens": found, "count": len(found)})

    def post(self, request: Request, vm_id: str) -> Response:
        """Issue a token, shown only this once; it replaces older ones."""
        node, token = services.issue_token(vm_id, by=request.user)
        return Response({"vmId": node.vm_id, "token": token}, status=201)

    def delete(self, request: Request, vm_id: str) -> Response:
        """Revoke the tokens of this VM and of its descendants."""
        return Response({"revoked": services.revoke_tokens(vm_id, by=request.user)})


class Tree(TreeView):
    """`/vm-tree/tree`; `?root=` and `?depth=` limit it, `?flat=true` returns a list."""

    @takes(query=("root", "flat", "depth", "since", "at", "includeRemoved"))
    def get(self, request: Request) -> HttpResponse:
        """Return the current tree.

        `?at=` returns it as of that time; `?since=` only nodes changed since, including removed
        ones.
        """
        at, since = query_moment(request, "at"), query_moment(request, "since")
        if at and since:
            raise BadInput("since: does not go together with at", "since")
        if at:
            return self._past_tree(request, at)
        flat = query_flag(request, "flat") or since is not None
        until = format_timestamp(clock.now() - UNTIL_OVERLAP)
        node = self._root(request)
        pieces = self._current_pieces(request, node, since)
        if flat:
            return _json(
                vms=json_rows.json_list(pieces), count=len(pieces), until=_json_text(until)
            )
        key = node.pk if node else None
        count = len(pieces) if self._is_whole(request) else _nodes(request).count()
        return _json(tree=json_rows.json_tree(pieces, key), count=count)

    def _root(self, request: Request) -> Node | None:
        """Return the node that `?root=` names; None if it does not exist."""
        vm_id = aliases.resolve(request.query_params.get("root", ""))
        return _nodes(request).filter(vm_id=vm_id).first() if vm_id else None

    def _is_whole(self, request: Request) -> bool:
        params = request.query_params
        return not any(params.get(name) for name in ("root", "depth", "since"))

    def _current_pieces(
        self, request: Request, node: Node | None, since: datetime | None
    ) -> list[json_rows.Piece]:
        depth = query_number(request, "depth", most=MAX_DEPTH)
        if request.query_params.get("root") and node is None:
            return []
        removed = query_flag(request, "includeRemoved") or since is not None
        if node is None and depth is None:
            nodes = Node.objects.all() if removed else Node.objects.active()
            return json_rows.pieces_of(nodes.filter(updated_at__gte=since) if since else nodes)
        return json_rows.descendant_pieces(node, depth=depth, since=since, removed=removed)

    def _past_tree(self, request: Request, at: datetime) -> HttpResponse:
        """Return the tree as of `at`, from the revisions."""
        whole = json_rows.pieces_at(at)
        root = aliases.resolve(request.query_params.get("root", "")) or None
        depth = query_number(request, "depth", most=MAX_DEPTH)
        pieces = json_rows.subtree(whole, root, depth) if root or depth is not None else whole
        if query_flag(request, "flat"):
            return _json(
                vms=json_rows.json_list(pieces),
                count=len(pieces),
                at=_json_text(format_timestamp(at)),
            )
        tree = json_rows.json_tree(pieces, root)
        return _json(tree=tree, count=len(whole), at=_json_text(format_timestamp(at)))


class Find(TreeView):
    """`/vm-tree/find/organ/<name>` and `/vm-tree/find/capability/<name>`"""

    @takes(query=("includeRemoved",))
    def get(self, request: Request, kind: str, name: str) -> HttpResponse:
        """List VMs with exactly this organ or capability, oldest first."""
        pieces = json_rows.pieces_of(_nodes(request).with_trait(Trait.Kind(kind), name))
        return _json(vms=json_rows.json_list(pieces), count=len(pieces))


class Stats(TreeView):
    """`/vm-tree/stats`"""

    def get(self, request: Request) -> Response:
        """Count active nodes."""
        return Response(services.stats())


class Panel(TreeView):
    """`/vm-tree/_panel`"""

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
