"""HTTP API of the registry, as the wire contract defines it."""

from __future__ import annotations

from typing import Any

from django.http import HttpResponse
from django.template.loader import render_to_string
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from reef_site.common import clock
from reef_site.common.errors import NotFound
from reef_site.common.paging import take_page
from reef_site.common.request_names import takes, takes_anything
from reef_site.common.request_values import query_limit
from reef_site.common.text import to_storable
from registry import heartbeats, search_terms, services
from registry import placement as placing
from registry.models import VM
from registry.serializers import (
    REGISTRATION_FIELDS,
    parse_changes,
    parse_placement,
    parse_registration,
    vms_json,
)
from vmtree import aliases
from vmtree.serializers import node_json

MAX_PAGE_SIZE = 1000
DEFAULT_PAGE_SIZE = 100
MAX_PANEL_ROWS = 500


class VMs(APIView):
    """`/registry/vms`"""

    checks_permission = True

    @takes(query=("role", "status", "parentVmId", "liveness", "q", "limit", "cursor"), lenient=True)
    def get(self, request: Request) -> Response:
        """List VMs, most recently seen first; with `?limit=` or `?cursor=` in pages ordered by id.

        The order of ids does not change with heartbeats, so that pages neither skip nor repeat VMs.
        `?q=` and `?liveness=` filter, besides the parameters named like columns.
        """
        params = request.query_params
        found = services.filter_vms(
            role=params.get("role", ""),
            status=params.get("status", ""),
            parent_vm_id=aliases.resolve(params.get("parentVmId", "")),
        )
        if value := params.get("liveness", ""):
            found = search_terms.with_liveness(found, value)
        found = search_terms.narrow(found, params.get("q", ""))
        limit = query_limit(request, most=MAX_PAGE_SIZE, default=0)
        cursor = params.get("cursor", "")
        if not limit and not cursor:
            vms = vms_json(found.newest_first())
            return Response({"vms": vms, "count": len(vms)})
        limit = limit or DEFAULT_PAGE_SIZE
        rows, more = take_page(found.filter(pk__gt=to_storable(cursor)).order_by("id"), limit)
        vms = vms_json(rows)
        following = vms[-1]["id"] if more else None
        return Response({"vms": vms, "count": len(vms), "next": following})

    @takes(body=REGISTRATION_FIELDS, lenient=True)
    def post(self, request: Request) -> Response:
        """Register a VM, or update its registration."""
        vm = services.register(parse_registration(request.data), caller=request.user)
        return Response(vms_json([vm])[0], status=201)


class VMDetail(APIView):
    """`/registry/vms/:id`"""

    checks_permission = True

    def get(self, request: Request, vm_id: str) -> Response:
        return Response(vms_json([services.find(vm_id)])[0])

    @takes(body=REGISTRATION_FIELDS, lenient=True)
    def patch(self, request: Request, vm_id: str) -> Response:
        """Change some fields; an empty patch counts as a heartbeat."""
        services.find(vm_id)
        vm = services.patch(vm_id, parse_changes(request.data), caller=request.user)
        return Response(vms_json([vm])[0])

    def delete(self, request: Request, vm_id: str) -> Response:
        services.deregister(vm_id, caller=request.user)
        return Response({"deleted": True})


class Heartbeat(APIView):
    """`POST /registry/vms/:id/heartbeat`; the edge answers it itself where it can."""

    checks_permission = True

    @takes_anything
    def post(self, request: Request, vm_id: str) -> Response:
        """Record a heartbeat; the response says when to send the next one."""
        heartbeat = heartbeats.parse_one(vm_id, request._request.body)
        return Response(services.record_heartbeat(heartbeat, caller=request.user))


class Heartbeats(APIView):
    """`POST /registry/heartbeats`; the edge answers it itself where it can."""

    checks_permission = True

    @takes(body=("ids", "beats"))
    def post(self, request: Request) -> Response:
        """Record heartbeats of up to 10,000 VMs; the response names unregistered ids."""
        found = [
            heartbeats.with_vm_id(aliases.resolve(beat.vm_id), beat)
            for beat in heartbeats.parse_many(request.data)
        ]
        return Response(services.record_heartbeats(found, caller=request.user))


class Place(APIView):
    """`POST /registry/place`"""

    checks_permission = True

    @takes(body=("ids", "parentVmId", "category"))
    def post(self, request: Request) -> Response:
        """Place registered VMs in the tree, below their registered parents or all below
        `parentVmId`.

        The response gives the reason for each VM that is refused.
        """
        placement = parse_placement(request.data)
        known = VM.objects.in_bulk(placement.ids)
        placed, refused = placing.place_all(
            [known[vm_id] for vm_id in placement.ids if vm_id in known],
            by=request.user,
            under=placement.parent_vm_id,
            category=placement.category,
        )
        reasons = {vm.pk: reason for vm, reason in refused}
        reasons |= {vm_id: services.VM_NOT_FOUND for vm_id in placement.ids if vm_id not in known}
        refusals = [
            {"id": vm_id, "error": reasons[vm_id]} for vm_id in placement.ids if vm_id in reasons
        ]
        vms = [node_json(node) for node in placed]
        return Response({"placed": vms, "count": len(vms), "refused": refusals})


class Discover(APIView):
    """`GET /registry/discover/:role`"""

    def get(self, request: Request, role: str) -> Response:
        """List VMs of this role that are running and not silent."""
        now = clock.now()
        found = VM.objects.filter(role=to_storable(role)).answering(now)
        vms = vms_json(found.newest_first(), now)
        return Response({"vms": vms, "count": len(vms)})


class Children(APIView):
    """`GET /registry/vms/:id/children`"""

    def get(self, request: Request, vm_id: str) -> Response:
        """List the children in the order of registration."""
        return _with_count("children", vms_json(services.children(vm_id)))


class Ancestors(APIView):
    """`GET /registry/vms/:id/ancestors`"""

    def get(self, request: Request, vm_id: str) -> Response:
        """List the ancestors, root first, the VM itself last."""
        return _with_count("ancestors", vms_json(services.ancestors(vm_id)))


class Subtree(APIView):
    """`GET /registry/vms/:id/subtree`"""

    def get(self, request: Request, vm_id: str) -> Response:
        """List the VM and its descendants, breadth first."""
        return _with_count("subtree", vms_json(services.subtree(vm_id)))


class Diff(APIView):
    """`GET /registry/vms/:a/diff/:b`"""

    def get(self, request: Request, vm_id: str, other: str) -> Response:
        """Return the organs and capabilities that the second VM adds and lacks."""
        return Response(services.dna_difference(vm_id, other))


class Gaps(APIView):
    """`GET /registry/vms/:id/gaps`"""

    def get(self, request: Request, vm_id: str) -> Response:
        """List the ended gaps between heartbeats of the last days, oldest first."""
        rows = services.gaps(services.find(vm_id))
        found = [
            {"began": row.began_at, "ended": row.ended_at, "status": row.status} for row in rows
        ]
        return _with_count("gaps", found)


class Panel(APIView):
    """`GET /registry/_panel`"""

    def get(self, request: Request) -> HttpResponse:
        """Return a table of VMs as an HTML fragment for other pages."""
        return HttpResponse(panel_html())


class UnknownPath(APIView):
    """Unknown path below `/registry`: 404 for authenticated callers, else 401."""

    @takes_anything
    def _refuse(self, request: Request, **_: Any) -> Response:
        raise NotFound("not found")

    get = post = put = patch = delete = _refuse


def panel_html() -> str:
    """Render the most recently seen VMs as a table."""
    vms = vms_json(VM.objects.newest_first()[:MAX_PANEL_ROWS])
    count = VM.objects.count()
    return render_to_string("registry/_panel.html", {"vms": vms, "count": count})


def _with_count(name: str, rows: list[dict[str, Any]]) -> Response:
    return Response({name: rows, "count": len(rows)})
