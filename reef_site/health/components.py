"""State of reef's components, for `/health` and the overview."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from django.conf import settings
from django.db import Error as DatabaseError
from django.utils import timezone

from lieutenants.hosts import strays
from lieutenants.hosts.liveness import list_hosts
from lieutenants.models import LifeSign
from lieutenants.unknown_agents.models import UnknownAgent
from reef_site.celery import app
from reef_site.common import broker, clock, disk, queries
from reef_site.common.models import Tick
from reef_site.sqlite import log

# Heartbeats come every 5 (follower) and 10 (worker, through beat and broker) seconds.
LATE_SECONDS = {
    **({"worker": 35.0} if settings.HAS_WORK else {}),
    **({"follower": 20.0} if "lieutenant" in settings.ORGANS else {}),
}
# A tick is late after three periods plus this slack, as ticks may wait for a busy worker.
TICK_SLACK_SECONDS = 20.0
# Tolerated difference between the clocks of this host and of the database.
MAX_SKEW_SECONDS = 30.0
# A time further in the future than this was written before the clock was set back.
TOLERANCE = timedelta(seconds=5)
MAX_NAMES = 5
_SET_BACK = "lies in the future: the clock was set back"


@dataclass(frozen=True)
class Component:
    """One component: whether it works, facts about it, and the problem in words."""

    name: str
    ok: bool
    facts: dict[str, object] = field(default_factory=dict)
    why: str = ""
    seen: datetime | None = None

    @property
    def json(self) -> dict[str, object]:
        """Return the JSON object for `/health`."""
        return {"ok": self.ok, **self.facts, **({"why": self.why} if self.why else {})}


def look() -> list[Component]:
    """Return all components, the database first; without it, others are incomplete."""
    try:
        database, rest = _database(), _from_rows()
    except DatabaseError as error:
        problem = type(error).__name__
        database = Component("database", False, {"error": problem}, "the database does not answer")
        rest = [Component(name, False, {"ageSeconds": None}) for name in LATE_SECONDS]
    return [database, _broker(), *rest, _disk(), *_log()]


def count_unknown_agents() -> int | None:
    """Return the number of running agents without a follower; None without the database."""
    try:
        return UnknownAgent.objects.count()
    except DatabaseError:
        return None


def _from_rows() -> list[Component]:
    now = clock.database_now()
    heartbeats = [_heartbeat(name, now) for name in LATE_SECONDS]
    lieutenants = [_hosts()] if "lieutenant" in settings.ORGANS else []
    return [*heartbeats, *lieutenants, *([_ticks(now)] if settings.HAS_WORK else []), _clock(now)]


def _database() -> Component:
    began = time.monotonic()
    queries.ping()
    took = round((time.monotonic() - began) * 1000, 2)
    return Component("database", True, {"ms": took, "ageSeconds": 0})


def _broker() -> Component:
    problem, took = broker.ping()
    if problem:
        return Component("broker", False, {"error": problem}, "Redis does not answer")
    return Component("broker", True, {"ms": took, "ageSeconds": 0})


def _heartbeat(name: str, now: datetime) -> Component:
    seen = LifeSign.latest(name, until=now + TOLERANCE)
    if seen is None:
        future = LifeSign.latest(name) is not None
        why = f"its last sign {_SET_BACK}" if future else "never seen"
        return Component(name, False, {"ageSeconds": 0 if future else None}, why)
    age = round(clock.age_seconds(seen, now), 1)
    ok = age < LATE_SECONDS[name]
    return Component(name, ok, {"ageSeconds": age}, "" if ok else f"no sign for {age:.0f} s", seen)


def _hosts() -> Component:
    """Check the follower of each data folder that has lieutenants."""
    found = list_hosts()
    missed = [host for host in found if host.needs_attention]
    rivals = [host.rival for host in found if host.rival]
    silent = [
        {
            "host": host.name,
            "id": host.id,
            "lieutenants": host.lieutenants,
            "agentsToEnd": host.leftovers,
            "lastSign": clock.format_timestamp(host.seen_at) if host.seen_at else None,
        }
        for host in missed
    ]
    problems = [*(f"host {host.name}: {host.summary}" for host in missed), *rivals]
    if names := strays.names_with_strays():
        shown = ", ".join(names[:MAX_NAMES])
        problems.append(f"agents run in another data folder, of {len(names)} lieutenants: {shown}")
    why = "; ".join(problems)
    return Component(
        "hosts", not why, {"followed": len(found) - len(missed), "silent": silent}, why
    )


def _ticks(now: datetime) -> Component:
    begun = {tick.name: tick.begun_at for tick in Tick.objects.all() if tick.begun_at}
    past = [moment for moment in begun.values() if moment <= now + TOLERANCE]
    if not past:
        why = f"the newest tick {_SET_BACK}" if begun else "no periodic task has run yet"
        return Component("ticks", False, {"ageSeconds": 0 if begun else None}, why)
    late = [
        entry["task"] for entry in app.conf.beat_schedule.values() if _is_late(entry, begun, now)
    ]
    age = round(clock.age_seconds(max(past), now), 1)
    why = f"late periodic tasks: {', '.join(late)}" if late else ""
    return Component("ticks", not late, {"ageSeconds": age, "late": late}, why, max(past))


def _is_late(entry: dict[str, object], begun: dict[str, datetime], now: datetime) -> bool:
    moment = begun.get(str(entry["task"]))
    if moment is None or moment > now + TOLERANCE:
        return True
    limit = 3 * float(str(entry["schedule"])) + TICK_SLACK_SECONDS
    return clock.age_seconds(moment, now) > limit


def _clock(now: datetime) -> Component:
    """Compare this host's clock with the database's, and with the times of earlier rows."""
    skew = round((timezone.now() - now).total_seconds(), 1)
    if abs(skew) > MAX_SKEW_SECONDS:
        way = "ahead of" if skew > 0 else "behind"
        why = f"this host's clock is {abs(skew):.0f} s {way} the database's"
        return Component("clock", False, {"skewSeconds": skew}, why)
    ahead = Tick.objects.filter(sent_at__gt=now + TOLERANCE).exists()
    ahead = ahead or LifeSign.objects.filter(at__gt=now + TOLERANCE).exists()
    why = "the clock was set back: signs of life lie in the future" if ahead else ""
    return Component("clock", not ahead, {"skewSeconds": skew}, why)


def _disk() -> Component:
    try:
        space = disk.space()
    except OSError as error:
        return Component(
            "disk", False, why=f"the data folder cannot be looked at: {error.strerror}"
        )
    facts: dict[str, object] = {"freeBytes": space.free_bytes, "freePercent": space.free_percent}
    return Component("disk", not space.why, facts, space.why)


def _log() -> list[Component]:
    found = log.look()
    if found is None:
        return []
    facts: dict[str, object] = {"bytes": found.size_bytes}
    if found.holders:
        facts["heldBy"] = [pid for pid, _ in found.holders]
    return [Component("databaseLog", not found.why, facts, found.why)]
