"""Periodic tasks ("ticks"), which run once each time even with several schedulers and workers.

Each tick has a row. A scheduler claims it by an UPDATE that only one of several can make, and sends
the task with the generation that it got. A worker runs the newest generation only, and only once.
So neither the wall clocks of hosts nor a second scheduler make a difference, and a heap of ticks
that waited in a queue while no worker was there runs once.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from celery import shared_task
from django.conf import settings
from django.db.models import F

from reef_site.common import clock
from reef_site.common.models import Tick

# A tick that no worker has begun with is sent again then: the broker may have lost it.
RESEND_SECONDS = 30.0
# The share of its period by which a tick may come too soon: each scheduler measures by itself.
_EARLY = 0.1


@dataclass(frozen=True)
class Claim:
    """The right to send a tick now (`generation`), or how many seconds to wait."""

    generation: int | None
    wait: float


def claim(name: str, period: float) -> Claim:
    """Claim the next sending of a tick, if it is due."""
    row = Tick.objects.filter(pk=name).first()
    if row is None:
        fresh = Tick(name=name, period_seconds=period)
        Tick.objects.bulk_create([fresh], ignore_conflicts=True)
        row = Tick.objects.get(pk=name)
    now = clock.database_now()
    if (wait := _wait(row, period, now)) > 0:
        return Claim(None, wait)
    same = Tick.objects.filter(pk=name, generation=row.generation)
    mine = same.update(
        generation=F("generation") + 1,
        period_seconds=period,
        sent_at=now,
        sent_by=settings.HOST,
    )
    return Claim(row.generation + 1, period) if mine else Claim(None, period)


def _wait(row: Tick, period: float, now: datetime) -> float:
    if row.sent_at is None:
        return 0.0
    age = (now - row.sent_at).total_seconds()
    if age < -clock.MIN_JUMP_SECONDS:
        # The clock was set back since. To wait until it is there again could take days.
        return 0.0
    if row.begun_generation >= row.generation:
        return max(0.0, period * (1 - _EARLY) - age)
    # Look again soon: once a worker has begun with this one, the next follows after its period.
    return min(1.0, max(0.0, max(period, RESEND_SECONDS) - age))


def give_back(name: str, generation: int) -> None:
    """Undo a claim whose task could not be sent."""
    Tick.objects.filter(pk=name, generation=generation).update(sent_at=None)


def begin(name: str, generation: int) -> bool:
    """Return whether to run this tick, and note it: only the newest one, and only once."""
    newest = Tick.objects.filter(pk=name, generation=generation, begun_generation__lt=generation)
    # Reading takes no write lock; of a heap that waited in a queue most ticks end here.
    if not newest.exists():
        return False
    return bool(newest.update(begun_generation=generation, begun_at=clock.database_now()))


def tick_task(name: str, **options: Any) -> Callable[[Callable[[], None]], Any]:
    """Make a Celery task of a function that the scheduler runs periodically.

    Called without a generation, as by hand, it always runs.
    """

    def decorate(work: Callable[[], None]) -> Any:
        @functools.wraps(work)
        def run(generation: int | None = None) -> None:
            if generation is None or begin(name, generation):
                work()

        # Celery reads the signature of what it calls, and that is not the wrapped one.
        del run.__wrapped__
        task: Any = shared_task(name=name, **options)
        return task(run)

    return decorate
