"""The outside call that asks all machines, and what is known of it so far.

A worker asks many machines at a time. Each is reported as soon as it has answered; one that answers
late, or in a strange way, holds up no other.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from functools import partial
from queue import Empty, SimpleQueue

from django.db import Error as DatabaseError

from lieutenants.supervision.daemon_pool import DaemonPool
from lieutenants.supervision.discovery import verdicts
from lieutenants.supervision.discovery.machines import (
    MAX_PLACES,
    NamedPlace,
    Seen,
    all_places,
    look,
)
from lieutenants.supervision.discovery.verdicts import Lines
from lieutenants.unknown_agents import on_machines
from reef_site.common import clock, outside
from reef_site.common.models import OutsideCall
from reef_site.common.outside import Kind, Line, Result

logger = logging.getLogger(__name__)

KIND = "lieutenants.discover"
AT_ONCE = 24
# The request that begins it waits for so long; the worker goes on.
ANSWER_SECONDS = 3.0
LIMIT_SECONDS = 600.0
# A call that has reported nothing for so long was that of a worker which has died.
SILENT_SECONDS = 30.0
# For so long the next request gets the result of a call that ended after the one before it.
UNTOLD_SECONDS = 300.0
_REPORT_SECONDS, _LIFE_SECONDS = 0.25, 5.0
_NOT_YET = "has not answered yet; ask again"


def register() -> None:
    """Register the kind of call."""
    outside.call_kinds.register(Kind(_run, _shown), key=KIND)


def lines(*, by: object) -> Lines:
    """Return what is known after a short wait, by lieutenant or machine.

    A call that is under way is joined.
    """
    places = all_places()
    if not places:
        return {}
    row = _untold() or _under_way()
    row = row or outside.make(KIND, {}, by=by, limit=LIMIT_SECONDS)
    row = outside.wait(row, ANSWER_SECONDS)
    found = _lines_in(row)
    if row.is_over:
        OutsideCall.objects.filter(pk=row.pk).update(result={**row.result, "told": True})
        if row.error:
            found["call"] = f"The machines were not all asked: {row.error}"
    else:
        asked = set(row.result.get("answered", ()))
        found |= verdicts.same_for_all([p for p in places if _key(p) not in asked], _NOT_YET)
    return found


def _untold() -> OutsideCall | None:
    """Return the newest call if it ended lately, after the request that had begun it."""
    newest = OutsideCall.objects.filter(kind=KIND).order_by("-made_at").first()
    if newest is None or newest.ended_at is None or newest.result.get("told"):
        return None
    age = clock.age_seconds(newest.ended_at, clock.database_now())
    return newest if age < UNTOLD_SECONDS else None


def _under_way() -> OutsideCall | None:
    """Return the call that a worker makes now, or is about to make."""
    row = outside.find_open(KIND)
    if row is None:
        return None
    reported = row.result.get("reportedAt")
    last = datetime.fromisoformat(reported) if reported else row.made_at
    return row if clock.age_seconds(last, clock.database_now()) < SILENT_SECONDS else None


def _lines_in(row: OutsideCall) -> Lines:
    return {str(key): str(text) for key, text in row.result.get("lines", ())}


def _key(place: NamedPlace) -> str:
    return place.place.vm_id or place.place.ssh_host


def _run() -> Result:
    """Ask all machines, and follow what can be followed again."""
    places = all_places()
    on_machines.forget_others(places)
    waiting = {_key(place): place for place in places[:MAX_PLACES]}
    answers: SimpleQueue[tuple[NamedPlace, Seen]] = SimpleQueue()
    pool = DaemonPool(AT_ONCE, "reef-discover")
    for place in waiting.values():
        pool.submit(partial(_ask, place, answers))
    found, answered = Lines(), list[str]()
    reported, at, end = 0, time.monotonic(), time.monotonic() + LIMIT_SECONDS - 5.0
    while waiting and time.monotonic() < end:
        with suppress(Empty):
            place, seen = answers.get(timeout=_REPORT_SECONDS)
            waiting.pop(_key(place))
            answered.append(_key(place))
            found |= verdicts.lines_of(place, seen)
            _record_unknown(place, seen)
        pause = _REPORT_SECONDS if reported < len(answered) else _LIFE_SECONDS
        if time.monotonic() - at > pause:
            reported, at = len(answered), time.monotonic()
            outside.report(_result(found, answered))
    late = f"unreachable — no answer in {LIMIT_SECONDS:.0f} s"
    found |= verdicts.same_for_all(waiting.values(), late)
    if len(places) > MAX_PLACES:
        found["more"] = f"{len(places) - MAX_PLACES} more machines were not looked at"
    return _result(found, answered)


def _record_unknown(place: NamedPlace, seen: Seen) -> None:
    try:
        on_machines.record(place, seen)
    except (DatabaseError, ValueError):
        # The lines about other machines are still to come. Texts of a machine may be odd.
        logger.exception("the unknown agents on %s cannot be stored", place.name)


def _ask(place: NamedPlace, answers: SimpleQueue[tuple[NamedPlace, Seen]]) -> None:
    answers.put((place, look(place)))


def _result(found: Mapping[str, str], answered: list[str]) -> Result:
    # Lists, since databases change the order of keys.
    lines_ = [list(each) for each in found.items()]
    at = clock.database_now().isoformat()
    return {"lines": lines_, "answered": list(answered), "reportedAt": at}


def _shown(result: Result) -> list[Line]:
    return [(None, str(text)) for _, text in result["lines"]]
