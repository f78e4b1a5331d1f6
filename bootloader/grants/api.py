"""The API of grants: operators set them, a node reads those of its own line and passes on."""

from __future__ import annotations

from django.urls import re_path
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from bootloader.grants import services as grants
from bootloader.grants.serializers import (
    GrantBody,
    GrantResponse,
    OneGrantResponse,
    grant_json,
)
from bootloader.grants.services import Limits
from bootloader.models import ProvisionGrant
from reef_site.common.api.endpoints import endpoint
from reef_site.common.api.serializers import list_of
from registry.serializers import DeletedResponse
from vmtree import permissions
from vmtree.permissions import Action

NOT_FOUND = {404: "grant not found"}


class Grants(APIView):
    """`GET /bootloader/grants`"""

    @endpoint(response=list_of("grants", GrantResponse))
    def get(self, request: Request) -> Response:
        """Return the grants of all nodes; for a node, those of its own line."""
        rows = ProvisionGrant.objects.select_related("node").order_by("pk")
        line = permissions.readable(request.user, Action.READ_MACHINES)
        if line is not None:
            rows = rows.filter(node__in=line)
        shown = [grant_json(row) for row in rows]
        return Response({"grants": shown, "count": len(shown)})


class OneGrant(APIView):
    """`/bootloader/grants/<vm id>`"""

    checks_permission = True

    @endpoint(
        response=OneGrantResponse,
        errors={403: f"rule: {permissions.RULE}. vm-7 may not read machines of vm-8", **NOT_FOUND},
    )
    def get(self, request: Request, vm_id: str) -> Response:
        """Return the node's grant."""
        return Response({"grant": grant_json(grants.find(vm_id, by=request.user))})

    @endpoint(body=GrantBody, response=OneGrantResponse, errors={404: "VM not found"})
    def put(self, request: Request, vm_id: str) -> Response:
        """Set the grant: what the node may still create, how deep, and what that may cost.

        A node may set those of its descendants, within its own; VMs are taken from its own.
        """
        grants.check_may_set(vm_id, request.user)
        grant = grants.set_grant(vm_id, Limits(**GrantBody.parse(request)), by=request.user)
        return Response({"grant": grant_json(grant)})

    @endpoint(response=DeletedResponse, errors=NOT_FOUND)
    def delete(self, request: Request, vm_id: str) -> Response:
        """Delete the grant."""
        grants.remove(vm_id, by=request.user)
        return Response({"deleted": True})


urlpatterns = [
    re_path(r"^grants/?$", Grants.as_view(), name="bootloader-grants"),
    re_path(r"^grants/(?P<vm_id>.+?)/?$", OneGrant.as_view(), name="bootloader-grant"),
]
