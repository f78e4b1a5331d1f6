"""The API of provisioning grants: operators set them, a node reads the grants of its own line."""

from __future__ import annotations

from typing import Any

from django.urls import re_path
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from bootloader.grants import services as grants
from bootloader.models import ProvisionGrant
from reef_site.common.errors import BadInput
from reef_site.common.request_names import takes
from reef_site.common.request_values import body_of, number_of
from vmtree import permissions
from vmtree.permissions import Action

Json = dict[str, Any]


class Grants(APIView):
    """`GET /bootloader/grants`"""

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

    def get(self, request: Request, vm_id: str) -> Response:
        """Return the node's grant."""
        return Response({"grant": grant_json(grants.find(vm_id, by=request.user))})

    @takes(body=("vms", "profiles", "levels"))
    def put(self, request: Request, vm_id: str) -> Response:
        """Set the grant: `vms` (how many more), `profiles` (empty: all), `levels` (default 1)."""
        permissions.check(request.user, Action.COMMAND, None)
        body = body_of(request)
        grant = grants.set_grant(
            vm_id,
            vms=number_of(body.get("vms"), "vms", most=grants.MAX_VMS),
            kinds=_texts(body.get("profiles"), "profiles"),
            levels=number_of(body.get("levels", 1), "levels", least=1, most=grants.MAX_LEVELS),
            by=request.user,
        )
        return Response({"grant": grant_json(grant)})

    def delete(self, request: Request, vm_id: str) -> Response:
        """Delete the grant."""
        grants.remove(vm_id, by=request.user)
        return Response({"deleted": True})


def grant_json(row: ProvisionGrant) -> Json:
    """Return a grant as JSON; `vms` is the number left."""
    return {
        "vmId": row.node.vm_id,
        "vms": row.vms,
        "profiles": row.profiles,
        "levels": row.levels,
    }


def _texts(value: object, field: str) -> list[str]:
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise BadInput(f"{field}: must be a list of text", field)
    return list(dict.fromkeys(value))


urlpatterns = [
    re_path(r"^grants/?$", Grants.as_view(), name="bootloader-grants"),
    re_path(r"^grants/(?P<vm_id>.+?)/?$", OneGrant.as_view(), name="bootloader-grant"),
]
