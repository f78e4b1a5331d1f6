"""Leases: the right of one worker to act on a row for a while, which ends by itself if it dies.

    class JobQuerySet(LeaseQuerySet["Job"]): ...

    if until := Job.objects.open().acquire(job_id, LEASE):      # nobody else acts on it until then
        try: ...
        finally: Job.objects.release(job_id, until)

A model takes part with `leased_until`, the end of the lease, null while the row is free. A lease
that ended counts as free, and so does one that lies farther ahead than it can have been set: it
was written before the clock was set back.

What tells one holder from the next is the end of its lease, or `leased_by` where a model has it.
Only with `leased_by` a lease can be renewed.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any, Self, TypeVar

from django.db import connection, models

from reef_site.common import clock

logger = logging.getLogger(__name__)

Row = TypeVar("Row", bound=models.Model, covariant=True)
# A lease is renewed this many times before it would end.
_RENEWALS = 4
_JOIN_SECONDS = 5


def is_leased(until: datetime | None, now: datetime, lease: timedelta) -> bool:
    """Return whether a row with this `leased_until` is held; its leases are `lease` long."""
    return until is not None and now < until < now + lease + clock.SKEW


class LeaseQuerySet(models.QuerySet[Row]):
    """Rows with `leased_until`. Each method makes one conditional UPDATE: that is the lock."""

    def free(self, now: datetime, lease: timedelta) -> Self:
        """Rows that nobody holds; `lease` is the length of their leases."""
        return self.filter(clock.is_over("leased_until", now, lease))

    def acquire(
        self, pk: object, lease: timedelta, *, longest: timedelta | None = None, **fields: Any
    ) -> datetime | None:
        """Lease the row of this key and write `fields` with it. Return the end of the lease.

        None if the row is not in this set or not free. `longest` is for models that also use
        `leased_until` for pauses: how far ahead it can have been set.
        """
        # Filters of this set must not join tables: PostgreSQL would not check them again for the
        # one of two claimers that had to wait for the other's commit.
        now = clock.now()
        mine = self.free(now, lease if longest is None else longest).filter(pk=pk)
        until = now + lease
        return until if mine.update(leased_until=until, **fields) else None

    def extend(self, pk: object, until: datetime, lease: timedelta) -> datetime | None:
        """Have the lease that ends at `until` end later; return its new end.

        None if it is not the newest one any more.
        """
        later = clock.now() + lease
        mine = self.filter(pk=pk, leased_until=until)
        return later if mine.update(leased_until=later) else None

    def release(self, pk: object, until: datetime | None) -> bool:
        """Free the row if the lease that ends at `until` is still the newest one."""
        return bool(self.filter(pk=pk, leased_until=until).update(leased_until=None))

    # -- models with `leased_by` ----------------------------------------------------------------

    def is_held(self, pk: object, holder: str) -> bool:
        """Return whether this holder has the lease, and it has not ended."""
        mine = self.filter(pk=pk, leased_by=holder)
        return mine.filter(leased_until__gt=clock.now()).exists()

    def renew(self, pk: object, holder: str, lease: timedelta) -> bool:
        """Have the lease end later; False if another holder has taken the row over."""
        mine = self.filter(pk=pk, leased_by=holder)
        return bool(mine.update(leased_until=clock.now() + lease))

    def release_held(self, pk: object, holder: str, **fields: Any) -> bool:
        """Free the row and write `fields` with it, unless another holder has taken it over."""
        mine = self.filter(pk=pk, leased_by=holder)
        return bool(mine.update(leased_until=None, leased_by="", **fields))

    @contextlib.contextmanager
    def renewing(self, pk: object, holder: str, lease: timedelta) -> Iterator[None]:
        """Renew the lease from a thread of its own for as long as the block runs."""
        over = threading.Event()

        def renew() -> None:
            while not over.wait(lease.total_seconds() / _RENEWALS):
                try:
                    if not self.renew(pk, holder, lease):
                        return
                except Exception:
                    logger.exception("the lease of %s could not be renewed", pk)
                finally:
                    connection.close()

        thread = threading.Thread(target=renew, name="reef-lease", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join(_JOIN_SECONDS)
