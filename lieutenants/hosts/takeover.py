"""Takeover of remote lieutenants whose follower has died: their agents go on elsewhere.

Each remote lieutenant is followed by one data folder's follower, which holds a lease
(`DataFolder.seen_at`). When that has run out, any other follower of the same database takes the
machine over, with all lieutenants on it. A follower that comes back writes nothing of them any
more: `save_progress` checks in its transaction who follows.
"""

from __future__ import annotations

import logging
import random

from django.conf import settings

from lieutenants.hosts import fences, sharing
from lieutenants.hosts.models import DataFolder
from reef_site.common import clock, queries

logger = logging.getLogger(__name__)

# A follower renews its lease every five seconds.
SILENT_AFTER = fences.LEASE
# A transaction of a silent follower is at least this old: less than its lease, without the five
# seconds in which it was to be renewed.
FROZEN_SECONDS = SILENT_AFTER.total_seconds() / 2


def take_over_silent() -> int:
    """Take over this follower's share of the machines without one; return their number.

    The rest is left to the other followers, and to the next call.
    """
    now = clock.database_now()
    others = DataFolder.objects.exclude(pk=settings.DATA_FOLDER_ID)
    silent = set(others.filter(seen_at__lte=now - SILENT_AFTER).values_list("pk", flat=True))
    if not silent or DataFolder.objects.filter(pk=settings.DATA_FOLDER_ID, is_draining=True):
        return 0
    lost = {key: rows for key, rows in sharing.machines().items() if key[0] in silent}
    if not lost:
        return 0
    owners = {owner for owner, *_ in lost}
    if ended := queries.end_frozen_transactions(owners, FROZEN_SECONDS):
        logger.warning("ended %d transactions of processes that are frozen or gone", ended)
    rivals = fences.with_lease().exclude(pk=settings.DATA_FOLDER_ID).filter(is_draining=False)
    mine = random.sample(sorted(lost), -(-len(lost) // (1 + rivals.count())))
    return sum(_take_over(key[0], lost[key]) for key in mine)


def _take_over(folder: str, lieutenants: list[str]) -> bool:
    """Follow these lieutenants of one machine from here; False if another follower was first."""
    if not sharing.move(lieutenants, folder, settings.DATA_FOLDER_ID, force=True):
        return False
    logger.warning("took over %d lieutenants of a silent follower (%s)", len(lieutenants), folder)
    return True
