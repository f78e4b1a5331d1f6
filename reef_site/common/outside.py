"""Calls to what is outside of reef: a worker makes them, within a limit, and keeps the answer.

A request that needs one makes a row, waits for a moment, and then tells where the answer will be.
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from django.db import connections

from reef_site.common import clock
from reef_site.common.dispatch import dispatch
from reef_site.common.hooks import Hook
from reef_site.common.models import CallState, OutsideCall

logger = logging.getLogger(__name__)

LIMIT_SECONDS = 10.0
# For so long the request itself waits: most answers are there by then.
BRIEF_SECONDS = 0.15
# How long a worker may take to begin.
QUEUE_SECONDS = 5.0
AGAIN = timedelta(seconds=1)
KEPT = timedelta(days=1)
OWN_ERROR = "an error of reef's own; its log tells more"

Result = dict[str, Any]
# What a page shows of a result: whether it is good (None: nobody could tell), and a sentence.
Line = tuple[bool | None, str]


@dataclass(frozen=True)
class Kind:
    """One kind of call: what is done with the arguments, and how a page shows the result.

    `run` may raise an error with a `status`, which callers are answered with.
    """

    run: Callable[..., Result]
    lines: Callable[[Result], list[Line]]
    # The queue of the workers that can make a call with these arguments; None if all can.
    queue: Callable[..., str | None] | None = None
    # How long an answer is kept.
    kept: timedelta = KEPT


# Id of the call that this thread makes.
_current: ContextVar[str] = ContextVar("outside_call", default="")

call_kinds: Hook[Kind] = Hook(
    "outside_calls.kinds", "Calls to providers, hosts and model APIs that a worker can make."
)


def make(
    kind: str, arguments: Mapping[str, Any], *, by: object, limit: float = LIMIT_SECONDS
) -> OutsideCall:
    """Have a worker make this call, and wait for a moment. Not for use in a transaction."""
    now = clock.database_now()
    row = OutsideCall.objects.create(
        id=secrets.token_hex(12),
        kind=kind,
        arguments=dict(arguments),
        made_by=str(by)[:200],
        limit_seconds=limit,
        made_at=now,
        sent_at=now,
    )
    _send(row)
    return wait(row, BRIEF_SECONDS)


def _send(row: OutsideCall) -> None:
    queue = call_kinds[row.kind].queue
    dispatch("reef.outside_call", row.pk, queue=queue(**row.arguments) if queue else None)


def wait(row: OutsideCall, seconds: float) -> OutsideCall:
    """Wait until a call is over, at most this long, and return its row as it is then."""
    end = time.monotonic() + seconds
    while True:
        row.refresh_from_db()
        if row.is_over or time.monotonic() > end:
            return row
        time.sleep(0.01 if seconds <= BRIEF_SECONDS else 0.05)


def find_open(kind: str) -> OutsideCall | None:
    """Return the newest call of a kind if it is not over."""
    newest = OutsideCall.objects.filter(kind=kind).order_by("-made_at").first()
    found = find(newest.pk) if newest and not newest.is_over else None
    return found if found and not found.is_over else None


def report(result: Result) -> None:
    """Store what the call that this thread makes has found so far."""
    mine = OutsideCall.objects.filter(pk=_current.get(), state=CallState.RUNNING)
    mine.update(result=result)


def find(call_id: str, *kinds: str) -> OutsideCall | None:
    """Return the call of this id and one of these kinds, if there is one.

    One that nobody answered in time has failed. One that no worker has begun with is sent again:
    the first message may have been dropped.
    """
    row = OutsideCall.objects.filter(pk=call_id, **({"kind__in": kinds} if kinds else {})).first()
    if row is None or row.is_over:
        return row
    limit, now = row.limit_seconds + QUEUE_SECONDS, clock.database_now()
    if clock.age_seconds(row.made_at, now) > limit:
        error = f"no worker has answered within {limit:.0f} s"
        _end(row, CallState.FAILED, error=error, status=504)
        row.refresh_from_db()
    else:
        waiting = OutsideCall.objects.filter(pk=row.pk, state=CallState.WAITING)
        if waiting.filter(sent_at__lte=now - AGAIN).update(sent_at=now):
            _send(row)
    return row


def lines(row: OutsideCall) -> list[Line]:
    """Return what a page shows of a call that is over."""
    if row.state == CallState.FAILED:
        return [(None, row.error)]
    return call_kinds[row.kind].lines(row.result)


def run(call_id: str) -> None:
    """Begin with the call, if nobody has; for a worker, whose threads do not wait for others."""
    mine = OutsideCall.objects.filter(pk=call_id, state=CallState.WAITING)
    if mine.update(state=CallState.RUNNING):
        threading.Thread(target=_see_to, args=[call_id], name="reef-call", daemon=True).start()


def _see_to(call_id: str) -> None:
    """Make the call in a thread of its own, and keep what came of it within the limit."""
    try:
        row = OutsideCall.objects.get(pk=call_id)
        attempt = _Attempt(row)
        thread = threading.Thread(target=attempt.run_apart, name=f"reef-{row.kind}", daemon=True)
        thread.start()
        thread.join(row.limit_seconds)
        if thread.is_alive():
            error = f"no answer within {row.limit_seconds:.0f} s"
            _end(row, CallState.FAILED, error=error, status=504)
        else:
            attempt.end()
    finally:
        connections.close_all()


def run_here(call_id: str) -> None:
    """Make the call in this thread, without a limit; for tests and commands."""
    row = OutsideCall.objects.get(pk=call_id)
    OutsideCall.objects.filter(pk=call_id).update(state=CallState.RUNNING)
    attempt = _Attempt(row)
    attempt.run()
    attempt.end()


def forget_old() -> None:
    """Delete answers that nobody asks for any more."""
    now = clock.database_now()
    OutsideCall.objects.filter(made_at__lt=now - KEPT).delete()
    for key, kind in call_kinds.items():
        if kind.kept < KEPT:
            OutsideCall.objects.filter(kind=key, made_at__lt=now - kind.kept).delete()


class _Attempt:
    """One call: its result or its error, whatever happens."""

    def __init__(self, row: OutsideCall) -> None:
        self._row = row
        self._result: Result | None = None
        self._error, self._status = OWN_ERROR, 500

    def run_apart(self) -> None:
        """Run in a thread of its own, which has database connections of its own."""
        try:
            self.run()
        finally:
            connections.close_all()

    def run(self) -> None:
        """Do it. Errors with a status are answers, too."""
        token = _current.set(self._row.pk)
        try:
            self._result = call_kinds[self._row.kind].run(**self._row.arguments)
        except Exception as error:
            status = getattr(error, "status", None)
            if isinstance(status, int):
                self._error, self._status = str(error), status
            else:
                logger.exception("%s failed", self._row.kind)
        finally:
            _current.reset(token)

    def end(self) -> None:
        """Keep what came of it."""
        if self._result is None:
            _end(self._row, CallState.FAILED, error=self._error, status=self._status)
        else:
            _end(self._row, CallState.DONE, result=self._result)


def _end(
    row: OutsideCall,
    state: CallState,
    *,
    result: Result | None = None,
    error: str = "",
    status: int = 500,
) -> None:
    still = OutsideCall.objects.filter(pk=row.pk).exclude(
        state__in=[CallState.DONE, CallState.FAILED]
    )
    # What a call has reported before it failed stays.
    found = {} if result is None else {"result": result}
    still.update(
        state=state,
        **found,
        error=error,
        error_status=status,
        ended_at=clock.database_now(),
    )
