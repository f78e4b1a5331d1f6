"""`/lieutenant/hosts`: where lieutenants run, and which host answers."""

from __future__ import annotations

from typing import Any

from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from lieutenants.hosts.adoption import adopt
from lieutenants.hosts.silence import Host, hosts
from reef_site.common.request_names import takes
from reef_site.common.request_values import body_of, flag_of
from vmtree import permissions
from vmtree.permissions import Action


def host_json(host: Host) -> dict[str, Any]:
    """Return what the API says of a host."""
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
        """All data folders that lieutenants belong to, with their hosts; not for nodes."""
        permissions.check(request.user, Action.READ_MACHINES, None)
        found = [host_json(host) for host in hosts()]
        return Response({"hosts": found, "count": len(found)})


class Adopt(APIView):
    """`POST /lieutenant/hosts/<name>/adopt`; not for nodes."""

    asks_authority = True

    @takes(body=("force",))
    def post(self, request: Request, name: str) -> Response:
        """Take its lieutenants over to this data folder; `{"force": true}` though it answers."""
        force = flag_of(body_of(request).get("force", False), "force")
        return Response({"results": adopt(name, actor=request.user, force=force)})
