"""The lease of a lieutenant: one worker at a time starts, stops or cleans up its process."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from datetime import timedelta

from lieutenants.models import Lieutenant

LEASE = timedelta(seconds=35)


@contextlib.contextmanager
def claimed(lieutenant_id: str) -> Iterator[Lieutenant | None]:
    """Hold the lease of a lieutenant of this data folder; yield None if another worker has it.

    Work on a remote lieutenant takes as long as its machine needs, so that its lease is renewed.
    """
    here = Lieutenant.objects.here()
    lieutenant = here.claim(lieutenant_id, LEASE)
    if lieutenant is None:
        yield None
        return
    pk, holder = lieutenant.pk, lieutenant.leased_by
    renewing = contextlib.nullcontext()
    try:
        with renewing if lieutenant.is_local else here.renewing(pk, holder, LEASE):
            yield lieutenant
    finally:
        here.release_held(pk, holder)
