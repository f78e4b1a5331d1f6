"""The agents' door to the tree, by the wire contract: `/vm-tree/…`."""

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
from vmtree import aliases, dna, rows, search, services, snapshot_api, views
from vmtree.models import Node, NodeQuerySet, Revision, Trait
from vmtree.serializers import (
    MOST_AT_ONCE,
    change_of,
    new_node_of,
    node_json,
    revision_json,
    token_json,
)

# How far back `until` of a flat tree lies: transactions that were open then may come later.
OVERLAP = timedelta(seconds=5)
MOST_DEPTH = 1_000_000
MOST_REVISIONS = 1000


def _json(**parts: str | int) -> HttpResponse:
    """An object of ready-made JSON."""
    body = ",".join(f'"{key}":{value}' for key, value in parts.items())
    return HttpResponse(f"{{{body}}}", content_type="application/json")


def _said(text: str | None) -> str:
    return orjson.dumps(text).decode()


def _nodes(request: Request) -> NodeQuerySet:
    """The nodes that a request speaks of: the living, or with `?includeRemoved=true` all."""
    nodes = Node.objects.all()
    return nodes if query_flag(request, "includeRemoved") else nodes.living()


def _find(request: Request, vm_id: str) -> Node:
    return services.find(vm_id, removed=query_flag(request, "includeRemoved"))


class TreeView(APIView):
    """Base of the views below; `vmtree.services` asks the rule wherever something changes."""

    asks_authority = True


class Vms(TreeView):
    """`/vm-tree/vms`"""

    @takes(query=("category", "parentVmId", "includeRemoved", "q", "limit", "cursor"))
    def get(self, request: Request) -> HttpResponse:
        """Oldest first; `?category= parentVmId= q= includeRemoved= limit= cursor=` narrow."""
        asked = request.query_params
        nodes = _nodes(request)
        if category := asked.get("category"):
            nodes = nodes.filter(category=category)
        if parent := asked.get("parentVmId"):
            nodes = nodes.filter(parent__vm_id=aliases.resolve(parent))
        found = search.narrow(nodes, asked.get("q", ""))
        limit = query_limit(request, most=MOST_AT_ONCE, default=0)
        if not limit:
            pieces = rows.of(_after(found, asked.get("cursor", "")))
            return _json(vms=rows.listed(pieces), count=len(pieces))
        pieces = rows.of(_after(found, asked.get("cursor", ""))[: limit + 1])
        more, pieces = len(pieces) > limit, pieces[:limit]
        cursor = str(pieces[-1].key) if more else None
        return _json(vms=rows.listed(pieces), count=len(pieces), next=_said(cursor))

    @takes(body=("name", "category", "vmId", "id", "parentVmId", "reefConfig"), lenient=True)
    def post(self, request: Request) -> Response:
        """Put one into the tree."""
        node = services.create(new_node_of(body_of(request)), by=request.user)
        return Response(node_json(node), status=201)


def _after(nodes: search.Nodes, cursor: str) -> search.Nodes:
    """The nodes behind the one that an earlier page ended with."""
    if not cursor:
        return nodes
    key = parse_number(cursor)
    last = None if key is None else Node.objects.filter(pk=key).first()
    if last is None:
        raise BadInput("cursor: must be the `next` of an earlier page", "cursor")
    same = Q(created_at=last.created_at, pk__gt=last.pk)
    return nodes.filter(same | Q(created_at__gt=last.created_at))


class Vm(TreeView):
    """`/vm-tree/vms/<id>`"""

    @takes(query=("includeRemoved",))
    def get(self, request: Request, vm_id: str) -> Response:
        """One."""
        return Response(node_json(_find(request, vm_id)))

    @takes(body=("name", "category", "parentVmId", "reefConfig"))
    def patch(self, request: Request, vm_id: str) -> Response:
        """Change name, category, DNA or parent."""
        node = services.change(vm_id, change_of(body_of(request)), by=request.user)
        return Response(node_json(node))

    @takes(query=("subtree", "confirm"))
    def delete(self, request: Request, vm_id: str) -> Response:
        """Remove it; `?subtree=true&confirm=<count>` with all below, from the registry, too."""
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
        """From the root down to the VM itself."""
        return _json(ancestors=rows.listed(rows.above(_find(request, vm_id))))


class Descendants(TreeView):
    """`/vm-tree/vms/<id>/descendants`"""

    @takes(query=("includeRemoved",))
    def get(self, request: Request, vm_id: str) -> HttpResponse:
        """Breadth first, without the VM itself."""
        node = _find(request, vm_id)
        return _json(descendants=rows.listed(rows.breadth_first(rows.below(node), node.pk)[1:]))


class Children(TreeView):
    """`/vm-tree/vms/<id>/children`"""

    @takes(query=("includeRemoved",))
    def get(self, request: Request, vm_id: str) -> HttpResponse:
        """Oldest first."""
        children = _nodes(request).filter(parent=_find(request, vm_id))
        return _json(children=rows.listed(rows.of(children)))


class Diff(TreeView):
    """`/vm-tree/vms/<a>/diff/<b>`"""

    @takes(query=("includeRemoved",))
    def get(self, request: Request, vm_id: str, other: str) -> Response:
        """What the second one has beside the first, and what it lacks."""
        found = {node.vm_id: node for node in _nodes(request).filter(vm_id__in=[vm_id, other])}
        if not {vm_id, other} <= found.keys():
            raise NotFound("One or both VMs not found")
        return Response(dna.diff(found[vm_id].reef_config, found[other].reef_config))


class History(TreeView):
    """`/vm-tree/vms/<id>/history`"""

    @takes(query=("limit", "cursor", "before"))
    def get(self, request: Request, vm_id: str) -> Response:
        """Newest first, `?limit=` (200) and `?cursor=` page by page; also of removed VMs."""
        limit = query_limit(request, most=MOST_REVISIONS, default=200)
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
        """When tokens were made and revoked; the tokens themselves nobody knows."""
        found = [token_json(each) for each in services.tokens_of(vm_id, by=request.user)]
        return Response({"tokens": found, "count": len(found)})

    def post(self, request: Request, vm_id: str) -> Response:
        """A new one, shown this once; it takes the place of older ones."""
        node, token = services.issue_token(vm_id, by=request.user)
        return Response({"vmId": node.vm_id, "token": token}, status=201)

    def delete(self, request: Request, vm_id: str) -> Response:
        """Revoke the tokens of this VM and of all below it."""
        return Response({"revoked": services.revoke_tokens(vm_id, by=request.user)})


class Tree(TreeView):
    """`/vm-tree/tree`: `?root=` and `?depth=` cut it, `?flat=true` gives a list."""

    @takes(query=("root", "flat", "depth", "since", "at", "includeRemoved"))
    def get(self, request: Request) -> HttpResponse:
        """As it is; `?at=` as it was then, `?since=` only what changed since, removed ones too."""
        at, since = query_moment(request, "at"), query_moment(request, "since")
        if at and since:
            raise BadInput("since: does not go together with at", "since")
        if at:
            return self._then(request, at)
        flat = query_flag(request, "flat") or since is not None
        until = format_timestamp(clock.now() - OVERLAP)
        node = self._root(request)
        pieces = self._now(request, node, since)
        if flat:
            return _json(vms=rows.listed(pieces), count=len(pieces), until=_said(until))
        key = node.pk if node else None
        count = len(pieces) if self._is_whole(request) else _nodes(request).count()
        return _json(tree=rows.nested(pieces, key), count=count)

    def _root(self, request: Request) -> Node | None:
        """The node that `?root=` names, if there is such a one."""
        vm_id = aliases.resolve(request.query_params.get("root", ""))
        return _nodes(request).filter(vm_id=vm_id).first() if vm_id else None

    def _is_whole(self, request: Request) -> bool:
        asked = request.query_params
        return not any(asked.get(name) for name in ("root", "depth", "since"))

    def _now(self, request: Request, node: Node | None, since: datetime | None) -> list[rows.Piece]:
        depth = query_number(request, "depth", most=MOST_DEPTH)
        if request.query_params.get("root") and node is None:
            return []
        removed = query_flag(request, "includeRemoved") or since is not None
        if node is None and depth is None:
            nodes = Node.objects.all() if removed else Node.objects.living()
            return rows.of(nodes.filter(updated_at__gte=since) if since else nodes)
        return rows.below(node, depth=depth, since=since, removed=removed)

    def _then(self, request: Request, at: datetime) -> HttpResponse:
        """The tree at an earlier time, from the revisions."""
        whole = rows.at(at)
        root = aliases.resolve(request.query_params.get("root", "")) or None
        depth = query_number(request, "depth", most=MOST_DEPTH)
        pieces = rows.part(whole, root, depth) if root or depth is not None else whole
        if query_flag(request, "flat"):
            return _json(vms=rows.listed(pieces), count=len(pieces), at=_said(format_timestamp(at)))
        tree = rows.nested(pieces, root)
        return _json(tree=tree, count=len(whole), at=_said(format_timestamp(at)))


class Find(TreeView):
    """`/vm-tree/find/organ/<name>` and `/vm-tree/find/capability/<name>`"""

    @takes(query=("includeRemoved",))
    def get(self, request: Request, kind: str, name: str) -> HttpResponse:
        """VMs with exactly this organ or capability, oldest first."""
        pieces = rows.of(_nodes(request).with_trait(Trait.Kind(kind), name))
        return _json(vms=rows.listed(pieces), count=len(pieces))


class Stats(TreeView):
    """`/vm-tree/stats`"""

    def get(self, request: Request) -> Response:
        """Counts of the living."""
        return Response(services.stats())


class Panel(TreeView):
    """`/vm-tree/_panel`"""

    def get(self, request: Request) -> HttpResponse:
        """The tree as a fragment that other pages can include; of large ones the top."""
        return HttpResponse(views.panel_html(request._request))


class Nothing(TreeView):
    """An unknown path of this service: 404 for those who may come in, else 401."""

    @takes_anything
    def _refuse(self, request: Request, **_: Any) -> Response:
        raise NotFound("not found")

    get = post = put = patch = delete = _refuse


_VM = r"^vm-tree/vms/(?P<vm_id>.+?)"

urlpatterns = [
    re_path(r"^vm-tree/vms/?$", Vms.as_view()),
    re_path(rf"{_VM}/ancestors/?$", Ancestors.as_view()),
    re_path(rf"{_VM}/descendants/?$", Descendants.as_view()),
    re_path(rf"{_VM}/children/?$", Children.as_view()),
    re_path(rf"{_VM}/history/?$", History.as_view()),
    re_path(rf"{_VM}/token/?$", Token.as_view()),
    re_path(rf"{_VM}/diff/(?P<other>.+?)/?$", Diff.as_view()),
    re_path(rf"{_VM}/?$", Vm.as_view()),
    re_path(r"^vm-tree/tree/?$", Tree.as_view()),
    re_path(r"^vm-tree/find/(?P<kind>organ|capability)/(?P<name>.+?)/?$", Find.as_view()),
    re_path(r"^vm-tree/stats/?$", Stats.as_view()),
    re_path(r"^vm-tree/_panel/?$", Panel.as_view(), name="vm-tree-panel"),
    *snapshot_api.urlpatterns,
    re_path(r"^vm-tree(?:/.*)?$", Nothing.as_view()),
]
