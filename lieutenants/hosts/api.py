"""API of hosts: `/lieutenant/hosts`."""

from __future__ import annotations

from typing import Any

from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from lieutenants.hosts.adoption import adopt
from lieutenants.hosts.liveness import Host, list_hosts
from reef_site.common.request_names import takes
from reef_site.common.request_values import body_of, flag_of
from vmtree import permissions
from vmtree.permissions import Action


def host_json(host: Host) -> dict[str, Any]:
    """Return a host as JSON."""
    facts: dict[str, Any] = {
        "id": host.id,
        "host": host.name,
        "here": host.is_here,
        "answers": host.answers,
        "seenAt": host.seen_at,
        "lieutenants": host.lieutenants,
        "agentsToEnd": host.leftovers,
    }
    more = {"path": host.path, "why": host.trouble, "rival": host.rival}
    return facts | {key: value for key, value in more.items() if value}


class Hosts(APIView):
    """`GET /lieutenant/hosts`"""

    def get(self, request: Request) -> Response:
        """Return all known data folders and their hosts. Not for nodes."""
        permissions.check(request.user, Action.READ_MACHINES, None)
        found = [host_json(host) for host in list_hosts()]
        return Response({"hosts": found, "count": len(found)})


class Adopt(APIView):
    """`POST /lieutenant/hosts/<name>/adopt`. Not for nodes."""

    checks_permission = True

    @takes(body=("force",))
    def post(self, request: Request, name: str) -> Response:
        """Take over the lieutenants of a host; `{"force": true}` does so even if it responds."""
        force = flag_of(body_of(request).get("force", False), "force")
        return Response({"results": adopt(name, actor=request.user, force=force)})
