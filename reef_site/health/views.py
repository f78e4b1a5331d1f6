"""`GET /health`: the state of reef's components, and when each was last seen."""

from __future__ import annotations

import os
import time
from pathlib import Path

from django.conf import settings
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from lieutenants.exceptions import IsolationUnavailable
from lieutenants.isolation import modes
from reef_site.common.api.endpoints import endpoint
from reef_site.health import components
from reef_site.health.serializers import UNAVAILABLE, HealthResponse
from vmtree import organs

SERVICES = ["ui", *(organ for organ in organs.MODULES if organ in settings.ORGANS)]


def _started_at() -> float:
    """Return when the web server started, in seconds since the epoch; same in all its processes."""
    pid = os.getppid() if os.getppid() > 1 else os.getpid()
    try:
        ticks = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
        uptime = float(Path("/proc/uptime").read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return time.time()
    return time.time() - uptime + ticks / os.sysconf("SC_CLK_TCK")


_started = _started_at()


class Health(APIView):
    """`GET /health`: open to everybody, and it needs no database."""

    authentication_classes = ()
    permission_classes = ()
    http_method_names = ("get", "head")

    @endpoint(response=HealthResponse, more_responses={503: HealthResponse}, ignores_unknown=True)
    def get(self, request: Request) -> Response:
        """Return the state of all components; 503 without the database.

        `status` is `degraded` if a component fails.
        """
        found = components.look()
        there = all(part.ok for part in found if part.name == "database")
        return Response(
            {
                "status": "ok" if all(part.ok for part in found) else "degraded",
                "uptime": round(time.time() - _started, 3),
                "services": SERVICES,
                "parts": {part.name: part.json for part in found},
                "isolation": _isolation(),
                "unknownAgents": components.count_unknown_agents(),
            },
            status=200 if there else 503,
        )


def _isolation() -> dict[str, str]:
    """Return the isolation mode of this host's agents, and a warning if it is weak."""
    try:
        mode = modes.configured().value
    except IsolationUnavailable:
        mode = UNAVAILABLE
    return {"mode": mode, "warning": modes.warning()}
