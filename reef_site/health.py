"""`GET /health`: whether the parts of reef are alive, and when each was last seen."""

from __future__ import annotations

import time
from datetime import datetime

import redis
from django.db import DatabaseError, connection
from django.http import HttpRequest, HttpResponse
from django.utils import timezone

from lieutenants.models import LifeSign
from reef_site.wire import json_answer
from vmtree import bells

SERVICES = ["ui", "lieutenant", "registry", "vm-tree"]
# Signs come every 5 (follower) and 10 (worker, through beat and broker) seconds.
LATE_SECONDS = {"worker": 35.0, "follower": 20.0}
_started = time.monotonic()


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
            "status": "ok" if good else "degraded",
            "uptime": round(time.monotonic() - _started, 3),
            "services": SERVICES,
            "parts": parts,
        },
        status=200 if database["ok"] else 503,
    )


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
