"""`GET /health`: whether the parts of reef are alive, and when each was last seen."""

from __future__ import annotations

import os
import time
from datetime import datetime
from pathlib import Path

import redis
from django.conf import settings
from django.db import DatabaseError, connection
from django.http import HttpRequest, HttpResponse
from django.utils import timezone
from django.views.decorators.csrf import csrf_exempt

from lieutenants.exceptions import IsolationUnavailable
from lieutenants.isolation import modes
from lieutenants.models import LifeSign
from reef_site.wire import json_answer
from vmtree import bells, organs

SERVICES = ["ui", *(organ for organ in organs.MODULES if organ in settings.ORGANS)]
# Signs come every 5 (follower) and 10 (worker, through beat and broker) seconds.
LATE_SECONDS = {
    **({"worker": 35.0} if settings.HAS_WORK else {}),
    **({"follower": 20.0} if "lieutenant" in settings.ORGANS else {}),
}


def _started_at() -> float:
    """When the web server began, in seconds since the epoch: all its processes say the same."""
    pid = os.getppid() if os.getppid() > 1 else os.getpid()
    try:
        ticks = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
        uptime = float(Path("/proc/uptime").read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return time.time()
    return time.time() - uptime + ticks / os.sysconf("SC_CLK_TCK")


_started = _started_at()


@csrf_exempt  # so that a POST is told what it is: the wrong method
def health(request: HttpRequest) -> HttpResponse:
    """200 while requests can be served; `status` is `degraded` when a part is missing."""
    if request.method not in ("GET", "HEAD"):
        refusal = json_answer({"error": "method not allowed"}, 405)
        refusal["Allow"] = "GET, HEAD"
        return refusal
    database = _database()
    parts = {"database": database, "broker": _broker()}
    for who in LATE_SECONDS:
        parts[who] = _sign(who) if database["ok"] else {"ok": False, "ageSeconds": None}
    good = all(part["ok"] for part in parts.values())
    return json_answer(
        {
            "isolation": _isolation(),
            "status": "ok" if good else "degraded",
            "uptime": round(time.time() - _started, 3),
            "services": SERVICES,
            "parts": parts,
        },
        status=200 if database["ok"] else 503,
    )


def _isolation() -> dict[str, str]:
    """How agents of this host are kept away from reef, and what is weak about it."""
    try:
        mode = modes.configured().value
    except IsolationUnavailable:
        mode = "unavailable"
    return {"mode": mode, "warning": modes.warning()}


def _database() -> dict[str, object]:
    began = time.monotonic()
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
    except DatabaseError as error:
        return {"ok": False, "error": type(error).__name__}
    return {"ok": True, "ms": _ms(began), "ageSeconds": 0}


def _broker() -> dict[str, object]:
    began = time.monotonic()
    try:
        bells.client().ping()
    except (redis.RedisError, OSError) as error:
        return {"ok": False, "error": type(error).__name__}
    return {"ok": True, "ms": _ms(began), "ageSeconds": 0}


def _sign(who: str) -> dict[str, object]:
    seen: datetime | None = LifeSign.latest(who)
    if seen is None:
        return {"ok": False, "ageSeconds": None}
    age = round((timezone.now() - seen).total_seconds(), 1)
    return {"ok": age < LATE_SECONDS[who], "ageSeconds": age}


def _ms(began: float) -> float:
    return round((time.monotonic() - began) * 1000, 2)
