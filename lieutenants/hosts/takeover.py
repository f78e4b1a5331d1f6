"""Takeover of remote lieutenants whose follower has died: their agents go on elsewhere.

Each remote lieutenant is followed by one data folder's follower, which holds a lease
(`DataFolder.seen_at`). When that has run out, any other follower of the same database takes the
machine over, with all lieutenants on it. A follower that comes back writes nothing of them any
more: `save_progress` checks in its transaction who follows.
"""

from __future__ import annotations

import logging
import random
from collections import defaultdict
from datetime import timedelta

from django.conf import settings
from django.db import transaction

from lieutenants.hosts.models import DataFolder
from lieutenants.hosts.services import is_responding
from lieutenants.models import Lieutenant, Process
from reef_site.common import clock, events

logger = logging.getLogger(__name__)

# A follower renews its lease every five seconds.
SILENT_AFTER = timedelta(seconds=20)
Machine = tuple[str, str, str]


def take_over_silent() -> int:
    """Take over this follower's share of the machines without one; return their number.

    The rest is left to the other followers, and to the next call.
    """
    now = clock.database_now()
    others = DataFolder.objects.exclude(pk=settings.DATA_FOLDER_ID)
    silent = others.filter(seen_at__lte=now - SILENT_AFTER).values_list("pk", flat=True)
    remote = Lieutenant.objects.filter(transport="ssh", data_folder__in=list(silent))
    machines: dict[Machine, list[str]] = defaultdict(list)
    for row in remote.only("pk", "data_folder", "ssh_host", "on_vm"):
        machines[row.data_folder, str(row.ssh_host_id or ""), row.on_vm].append(row.pk)
    if not machines:
        return 0
    rivals = sum(1 for row in others if is_responding(row, now))
    mine = random.sample(sorted(machines), -(-len(machines) // (1 + rivals)))
    return sum(_take_over(machine[0], machines[machine]) for machine in mine)


def _take_over(folder: str, lieutenants: list[str]) -> bool:
    """Follow these lieutenants of one machine from here; False if another follower was first."""
    with transaction.atomic():
        rows = Lieutenant.objects.filter(pk__in=lieutenants, data_folder=folder)
        # The WHERE clause is the lock: only one follower finds the rows.
        if not rows.update(data_folder=settings.DATA_FOLDER_ID, leased_until=None):
            return False
        runs = Process.objects.live().filter(lieutenant__in=lieutenants, data_folder=folder)
        runs.update(data_folder=settings.DATA_FOLDER_ID)
        for pk in lieutenants:
            events.publish_lieutenant(pk)
    logger.warning("took over %d lieutenants of a silent follower (%s)", len(lieutenants), folder)
    return True
