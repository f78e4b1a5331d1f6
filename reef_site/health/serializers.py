"""The response of `GET /health`."""

from __future__ import annotations

from lieutenants.isolation.modes import Isolation
from reef_site.common.api.fields import Choice, JsonValue, ListOf, Number, Text, WholeNumber
from reef_site.common.api.serializers import ResponseBody

UNAVAILABLE = "unavailable"


class IsolationResponse(ResponseBody):
    mode = Choice([*Isolation.values, UNAVAILABLE])
    warning = Text(help_text="Empty if there is nothing to warn of.")


class HealthResponse(ResponseBody):
    """The state of reef and of its components."""

    status = Choice(["ok", "degraded"])
    uptime = Number(help_text="Seconds.")
    services = ListOf(Text(), most=100)
    parts = JsonValue("object", help_text="Each has `ok`, facts, and if it fails `why`.")
    isolation = IsolationResponse()
    unknownAgents = WholeNumber(allow_null=True)

    example = {
        "status": "degraded",
        "uptime": 86_400.5,
        "services": ["ui", "registry"],
        "parts": {
            "database": {"ok": True, "ms": 0.4, "ageSeconds": 0},
            "worker": {"ok": False, "ageSeconds": 61.2, "why": "no sign for 61 s"},
        },
        "isolation": {"mode": "bubblewrap", "warning": ""},
        "unknownAgents": 0,
    }
