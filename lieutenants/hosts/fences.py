"""Generations of followers: which one a keeper obeys.

Each takeover raises `Process.generation`, and a keeper refuses commands of an older one than it has
seen. After the database was restored from an older backup, the row's generation is the older one,
though nobody else follows. Then the follower that has the process by its rows goes beyond it.
"""

from __future__ import annotations

import logging
from datetime import timedelta

from django.conf import settings
from django.db import transaction
from django.db.models import QuerySet

from lieutenants.hosts.models import DataFolder
from lieutenants.hosts.services import TOLERANCE
from lieutenants.models import Lieutenant, Process
from reef_site.common import clock, events

logger = logging.getLogger(__name__)

# Others take over what a follower has whose lease was renewed earlier than this.
LEASE = timedelta(seconds=20)


def with_lease() -> QuerySet[DataFolder]:
    """Return the data folders whose followers hold their leases, which nobody takes over."""
    now = clock.database_now()
    valid = DataFolder.objects.filter(seen_at__gt=now - LEASE, seen_at__lte=now + TOLERANCE)
    return valid.exclude(follower="")


def catch_up(process: Process, seen: int) -> bool:
    """Raise the generation of a process above `seen`, the one that its keeper has seen.

    Return False, and change nothing, unless this data folder has the process, and the lease of its
    follower is valid: a follower that was frozen must not overtake its successor. A process that
    has ended stays with the follower which it had then, so that its lieutenant alone counts.
    """
    ended = Process.objects.filter(ended_at__isnull=False, is_frozen=False)
    with transaction.atomic():
        # Locked before the lieutenant, as passes of the follower do.
        row = (Process.objects.here() | ended).select_for_update().filter(pk=process.pk)
        known = row.values_list("generation", flat=True).first()
        ours = Lieutenant.objects.here().select_for_update().filter(pk=process.lieutenant_id)
        if known is None or not ours.values_list("pk") or not _has_lease():
            logger.info("%s: another follower has it", process)
            return False
        process.generation = max(known, seen + 1)
        row.update(generation=process.generation)
        events.wake_follower(process.lieutenant_id)
    if process.generation != known:
        logger.warning(
            "%s: its keeper knows generation %d, the database %d; going on with %d",
            *(process, seen, known, process.generation),
        )
    return True


def catch_up_newest(lieutenant: Lieutenant, seen: int) -> bool:
    """Do that for the newest process of a lieutenant, whose files are to be removed."""
    newest = lieutenant.processes.order_by("-started_at", "-id").first()
    return newest is not None and catch_up(newest, seen)


def _has_lease() -> bool:
    return with_lease().filter(pk=settings.DATA_FOLDER_ID).exists()
