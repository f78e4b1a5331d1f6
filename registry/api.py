"""HTTP API of the registry, as the wire contract defines it."""

from __future__ import annotations

from typing import Any

from django.http import HttpResponse
from django.template.loader import render_to_string
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from reef_site.common import clock
from reef_site.common.api.endpoints import endpoint
from reef_site.common.api.fields import Text
from reef_site.common.api.serializers import list_of
from reef_site.common.errors import NotFound
from reef_site.common.paging import take_page_by_key
from reef_site.common.request_names import takes_anything
from reef_site.common.text import to_storable
from registry import heartbeat_bodies, search_terms, services
from registry import placement as placing
from registry.models import VM
from registry.serializers import (
    ChangeBody,
    DeletedResponse,
    GapResponse,
    HeartbeatBody,
    HeartbeatResponse,
    HeartbeatsResponse,
    ManyHeartbeatsBody,
    PlacedResponse,
    PlacementBody,
    RegistrationBody,
    VMQuery,
    VMResponse,
    gap_json,
    to_changes,
    to_registration,
    vms_json,
)
from vmtree import aliases
from vmtree.serializers import DiffResponse, node_json

Json = dict[str, Any]
NOT_FOUND = {404: services.VM_NOT_FOUND}
DEFAULT_PAGE_SIZE = 100
MAX_PANEL_ROWS = 500


class RegistryView(APIView):
    """Base of the views below. `registry.services` checks permissions for changes."""

    checks_permission = True


class VMs(RegistryView):
    """`/registry/vms`"""

    @endpoint(query=VMQuery, response=list_of("vms", VMResponse, next_page=Text), lenient=True)
    def get(self, request: Request) -> Response:
        """List VMs, most recently seen first; with `?limit=` or `?cursor=` in pages ordered by id.

        The order of ids does not change with heartbeats, so that pages neither skip nor repeat VMs.
        """
        query = VMQuery.parse(request)
        found = services.filter_vms(
            role=query["role"], status=query["status"], parent_vm_id=query["parent_vm_id"]
        )
        if query["liveness"]:
            found = search_terms.with_liveness(found, query["liveness"])
        found = search_terms.narrow(found, query["q"])
        if not query["limit"] and not query["cursor"]:
            return _list("vms", vms_json(found.newest_first()))
        limit = query["limit"] or DEFAULT_PAGE_SIZE
        rows, following = take_page_by_key(found, limit, query["cursor"])
        return _list("vms", vms_json(rows), next=following)

    @endpoint(body=RegistrationBody, response=VMResponse, status=201, lenient=True)
    def post(self, request: Request) -> Response:
        """Register a VM, or update its registration."""
        registration = to_registration(RegistrationBody.parse(request))
        vm = services.register(registration, caller=request.user)
        return Response(vms_json([vm])[0], status=201)


class VMDetail(RegistryView):
    """`/registry/vms/:id`"""

    @endpoint(response=VMResponse, errors=NOT_FOUND)
    def get(self, request: Request, vm_id: str) -> Response:
        """Return one VM."""
        return Response(vms_json([services.find(vm_id)])[0])

    @endpoint(body=ChangeBody, response=VMResponse, errors=NOT_FOUND, lenient=True)
    def patch(self, request: Request, vm_id: str) -> Response:
        """Change some fields; an empty patch counts as a heartbeat."""
        services.find(vm_id)
        changes = to_changes(ChangeBody.parse(request))
        vm = services.patch(vm_id, changes, caller=request.user)
        return Response(vms_json([vm])[0])

    @endpoint(response=DeletedResponse, errors=NOT_FOUND)
    def delete(self, request: Request, vm_id: str) -> Response:
        """Delete the registration; children keep their `parentVmId`."""
        services.deregister(vm_id, caller=request.user)
        return Response({"deleted": True})


class Heartbeat(RegistryView):
    """`POST /registry/vms/:id/heartbeat`; the edge answers it itself where it can."""

    throttle_classes = ()

    @endpoint(
        body=HeartbeatBody,
        response=HeartbeatResponse,
        errors=NOT_FOUND,
        ignores_unknown=True,
    )
    def post(self, request: Request, vm_id: str) -> Response:
        """Record a heartbeat; the response says when to send the next one."""
        heartbeat = heartbeat_bodies.parse_one(vm_id, request._request.body)
        return Response(services.record_heartbeat(heartbeat, caller=request.user))


class Heartbeats(RegistryView):
    """`POST /registry/heartbeats`; the edge answers it itself where it can."""

    throttle_classes = ()

    @endpoint(body=ManyHeartbeatsBody, response=HeartbeatsResponse)
    def post(self, request: Request) -> Response:
        """Record heartbeats of up to 10,000 VMs; the response names unregistered ids."""
        found = [
            heartbeat_bodies.with_vm_id(aliases.resolve(beat.vm_id), beat)
            for beat in heartbeat_bodies.parse_many(request.data)
        ]
        return Response(services.record_heartbeats(found, caller=request.user))


class Place(RegistryView):
    """`POST /registry/place`"""

    @endpoint(body=PlacementBody, response=PlacedResponse)
    def post(self, request: Request) -> Response:
        """Place registered VMs in the tree, below their registered parents or all below
        `parentVmId`.

        The response gives the reason for each VM that is refused.
        """
        body = PlacementBody.parse(request)
        ids = list(dict.fromkeys(body["ids"]))
        known = VM.objects.in_bulk(ids)
        placed, refused = placing.place_all(
            [known[vm_id] for vm_id in ids if vm_id in known],
            by=request.user,
            under=body["under"] or "",
            category=body["category"] or "",
        )
        reasons = dict.fromkeys(ids, services.VM_NOT_FOUND) | dict.fromkeys(known, "")
        reasons |= {vm.pk: reason for vm, reason in refused}
        refusals = [{"id": vm_id, "error": reason} for vm_id, reason in reasons.items() if reason]
        return _list("placed", [node_json(node) for node in placed], refused=refusals)


class Discover(RegistryView):
    """`GET /registry/discover/:role`"""

    @endpoint(response=list_of("vms", VMResponse))
    def get(self, request: Request, role: str) -> Response:
        """List VMs of this role that are running and not silent."""
        now = clock.now()
        found = VM.objects.filter(role=to_storable(role)).answering(now)
        return _list("vms", vms_json(found.newest_first(), now))


class Children(RegistryView):
    """`GET /registry/vms/:id/children`"""

    @endpoint(response=list_of("children", VMResponse), errors=NOT_FOUND)
    def get(self, request: Request, vm_id: str) -> Response:
        """List the children in the order of registration."""
        return _list("children", vms_json(services.children(vm_id)))


class Ancestors(RegistryView):
    """`GET /registry/vms/:id/ancestors`"""

    @endpoint(response=list_of("ancestors", VMResponse), errors=NOT_FOUND)
    def get(self, request: Request, vm_id: str) -> Response:
        """List the ancestors, root first, the VM itself last."""
        return _list("ancestors", vms_json(services.ancestors(vm_id)))


class Subtree(RegistryView):
    """`GET /registry/vms/:id/subtree`"""

    @endpoint(response=list_of("subtree", VMResponse), errors=NOT_FOUND)
    def get(self, request: Request, vm_id: str) -> Response:
        """List the VM and its descendants, breadth first."""
        return _list("subtree", vms_json(services.subtree(vm_id)))


class Diff(RegistryView):
    """`GET /registry/vms/:a/diff/:b`"""

    @endpoint(response=DiffResponse, errors={404: services.BOTH_NOT_FOUND})
    def get(self, request: Request, vm_id: str, other: str) -> Response:
        """Return the organs and capabilities that the second VM adds and lacks."""
        return Response(services.dna_difference(vm_id, other))


class Gaps(RegistryView):
    """`GET /registry/vms/:id/gaps`"""

    @endpoint(response=list_of("gaps", GapResponse), errors=NOT_FOUND)
    def get(self, request: Request, vm_id: str) -> Response:
        """List the ended gaps between heartbeats of the last days, oldest first."""
        return _list("gaps", [gap_json(row) for row in services.gaps(services.find(vm_id))])


class Panel(RegistryView):
    """`GET /registry/_panel`"""

    @endpoint(response="text/html")
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


def _list(name: str, rows: list[Json], **more: Any) -> Response:
    return Response({name: rows, "count": len(rows), **more})
