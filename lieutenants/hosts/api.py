"""API of hosts: `/lieutenant/hosts`."""

from __future__ import annotations

from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from lieutenants.hosts.adoption import adopt
from lieutenants.hosts.liveness import list_hosts
from lieutenants.hosts.serializers import HostResponse, host_json
from lieutenants.requests import ForceBody
from lieutenants.serializers import ResultsResponse
from reef_site.common.api.endpoints import endpoint
from reef_site.common.api.serializers import list_of
from vmtree import permissions
from vmtree.permissions import Action


class Hosts(APIView):
    """`GET /lieutenant/hosts`"""

    @endpoint(
        response=list_of("hosts", HostResponse),
        errors={403: "rule: a node reads the machines of its own line"},
    )
    def get(self, request: Request) -> Response:
        """Return all known data folders and their hosts. Not for nodes."""
        permissions.check(request.user, Action.READ_MACHINES, None)
        found = [host_json(host) for host in list_hosts()]
        return Response({"hosts": found, "count": len(found)})


class Adopt(APIView):
    """`POST /lieutenant/hosts/<name>/adopt`. Not for nodes."""

    checks_permission = True

    @endpoint(
        body=ForceBody,
        response=ResultsResponse,
        errors={404: "There is no other host 'reef-2'"},
    )
    def post(self, request: Request, name: str) -> Response:
        """Take over the lieutenants of a host; `{"force": true}` does so even if it responds."""
        body = ForceBody.parse(request)
        return Response({"results": adopt(name, actor=request.user, force=body["force"])})
