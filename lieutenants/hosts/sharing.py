"""Sharing of the machines with remote agents among the followers of one database.

Each follower follows whole machines. One that joins gets its share from the others; one that is
drained gives all away. Agents notice nothing.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Sequence

from django.conf import settings
from django.db import transaction
from django.db.models import F, Q

from lieutenants.hosts import fences
from lieutenants.hosts.models import DataFolder
from lieutenants.models import Lieutenant, Process, ProcessQuerySet
from lieutenants.states import Status
from reef_site.common import clock, events

logger = logging.getLogger(__name__)

# So many machines change their follower in one pass, since each connects anew.
AT_ONCE = 5
# A data folder, then an SSH host or a VM.
Machine = tuple[str, str, str]


def machines() -> dict[Machine, list[str]]:
    """Map the machines with remote lieutenants, by follower, to the lieutenants there."""
    remote = Lieutenant.objects.active() | Lieutenant.objects.with_leftovers()
    found: dict[Machine, list[str]] = defaultdict(list)
    rows = remote.filter(transport="ssh").order_by("pk")
    for row in rows.only("pk", "data_folder", "ssh_host", "on_vm"):
        found[row.data_folder, str(row.ssh_host_id or ""), row.on_vm].append(row.pk)
    return found


def share_out(folder: str = "") -> int:
    """Give machines beyond this follower's share to those with fewer; return their number.

    `folder` is the data folder that gives, by default this one.
    """
    folder = folder or settings.DATA_FOLDER_ID
    giver = DataFolder.objects.filter(pk=folder).first()
    takers = fences.with_lease().exclude(pk=folder).filter(is_draining=False)
    shares = dict.fromkeys(takers.values_list("pk", flat=True), 0)
    if giver is None or not shares:
        return 0
    mine: list[list[str]] = []
    for (owner, *_), lieutenants in machines().items():
        if owner in shares:
            shares[owner] += 1
        elif owner == folder:
            mine.append(lieutenants)
    given = 0
    for lieutenants in mine:
        least = min(shares, key=lambda each: shares[each])
        left = 0 if giver.is_draining else shares[least] + 1
        if len(mine) - given <= left or (given >= AT_ONCE and not giver.is_draining):
            break
        if move(lieutenants, folder, least):
            shares[least] += 1
            given += 1
    return given


def move(lieutenants: Sequence[str], giver: str, taker: str, *, force: bool = False) -> bool:
    """Let another follower have these lieutenants of one machine.

    Return False if it was another one's already, or, without `force`, if a start or stop is under
    way there: then all of them stay.
    """
    rows = Lieutenant.objects.filter(pk__in=lieutenants, data_folder=giver)
    if not force:
        busy = Q(status=Status.STARTING) | Q(leased_until__gt=clock.now())
        rows = rows.exclude(busy)
    with transaction.atomic():
        lock_processes(lieutenants)
        # The WHERE clause is the lock: only one follower finds the rows, and nobody begins a start
        # or stop between a look and the move.
        moved = rows.update(data_folder=taker, leased_until=None, leased_by="")
        if not moved or (moved < len(lieutenants) and not force):
            transaction.set_rollback(True)
            return False
        take_processes(lieutenants, taker, giver)
        for pk in lieutenants:
            events.publish_lieutenant(pk)
            events.wake_follower(pk)
    logger.info("%d lieutenants of %s are followed by %s", len(lieutenants), giver, taker)
    return True


def take_processes(lieutenants: Sequence[str], taker: str, giver: str | None = None) -> None:
    """Let a follower have the processes of these lieutenants, with its commands the newest.

    These are the live ones, and those that wait in paused VMs.
    """
    runs = _open_processes().filter(lieutenant__in=lieutenants)
    if giver is not None:
        runs = runs.filter(data_folder=giver)
    runs.update(data_folder=taker, generation=F("generation") + 1)


def take_strays() -> int:
    """Take the processes of this follower's lieutenants that name another; return their number.

    A start that began before a takeover may have inserted such a row.
    """
    ours = Lieutenant.objects.here().filter(transport="ssh")
    strays = _open_processes().filter(lieutenant__in=ours)
    strays = strays.exclude(data_folder=settings.DATA_FOLDER_ID)
    found = list(strays.values_list("lieutenant", flat=True).distinct())
    for pk in found:
        with transaction.atomic():
            lock_processes([pk])
            if ours.select_for_update().filter(pk=pk).values_list("pk"):
                take_processes([pk], settings.DATA_FOLDER_ID)
        logger.warning("took a process of %s that another follower had", pk)
    return len(found)


def lock_processes(lieutenants: Sequence[str]) -> None:
    """Lock the open processes before their lieutenants, in the order in which passes do."""
    _open_processes().filter(lieutenant__in=lieutenants).lock()


def _open_processes() -> ProcessQuerySet:
    return Process.objects.filter(Q(ended_at=None) | Q(is_frozen=True))


def drain(folder: DataFolder, *, end: bool = False) -> int:
    """Give all machines of a follower away, now and from now on; return how many were given.

    With `end` it takes its share again.
    """
    DataFolder.objects.filter(pk=folder.pk).update(is_draining=not end)
    return 0 if end else share_out(folder.pk)
