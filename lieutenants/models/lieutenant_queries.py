"""Queries for lieutenants."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Self

from django.conf import settings
from django.db import models
from django.db.models import Exists, OuterRef, Q, Subquery
from django.db.models.functions import Substr

from lieutenants.models.messages import Message
from lieutenants.models.processes import Process
from lieutenants.states import MessageState, Status
from reef_site.common.ids import new_ulid
from reef_site.common.leases import LeaseQuerySet

if TYPE_CHECKING:
    from lieutenants.models.lieutenants import Lieutenant


class LieutenantQuerySet(LeaseQuerySet["Lieutenant"]):
    def active(self) -> Self:
        """Lieutenants that are not destroyed."""
        return self.exclude(status=Status.DESTROYED)

    def here(self) -> Self:
        """Lieutenants of this data folder, whose agents run here."""
        return self.filter(data_folder=settings.DATA_FOLDER_ID)

    def claim(self, pk: str, lease: timedelta) -> Lieutenant | None:
        """Lease the row to the caller and return it; None while another lease is valid.

        `leased_by` of the returned row identifies this lease.
        """
        holder = new_ulid()
        if not self.acquire(pk, lease, leased_by=holder):
            return None
        # None if another follower has taken it over meanwhile.
        return self.filter(pk=pk, leased_by=holder).first()

    def lock_claimed(self, claimed: Lieutenant) -> bool:
        """Lock the row of a lieutenant; return False if others have it since it was read.

        These are another follower, or another holder of its lease. Must run in a transaction.
        """
        same = self.filter(data_folder=claimed.data_folder, leased_by=claimed.leased_by)
        return bool(same.select_for_update().filter(pk=claimed.pk).values_list("pk"))

    def without_process(self) -> Self:
        """Lieutenants without a live process."""
        live = Process.objects.live().filter(lieutenant=OuterRef("pk"))
        return self.filter(~Exists(live))

    def without_lasting_process(self) -> Self:
        """Lieutenants without a live process, or with one that does not end; see `lasting`."""
        return self.filter(~Exists(Process.objects.lasting().filter(lieutenant=OuterRef("pk"))))

    def due_for_restart(self, at: datetime) -> Self:
        """Failed lieutenants whose delay before the next start has passed."""
        return self.filter(status=Status.ERROR, restart_at__lte=at)

    def idle_too_long(self, at: datetime) -> list[Lieutenant]:
        """Return idle lieutenants whose idle limit has passed."""
        waiting = self.filter(status=Status.IDLE, idle_limit_minutes__isnull=False)
        return [each for each in waiting if each.idle_since_limit(at)]

    def with_leftovers(self) -> Self:
        """Destroyed lieutenants that still hold their machines, with files of theirs or without."""
        made = Q(made_vm__isnull=False, made_vm__removed_at__isnull=True)
        held = Q(ssh_host__isnull=False) | Q(has_remote_files=True) | made
        return self.filter(held, status=Status.DESTROYED)

    def count_by_status(self) -> dict[str, int]:
        """Map each status in use to its number of lieutenants."""
        rows = self.order_by().values_list("status").annotate(count=models.Count("pk"))
        return dict(rows)

    def with_task(self) -> Self:
        """Annotate `task`: the head of the newest message that was not rejected."""
        mine = Message.objects.filter(lieutenant=OuterRef("pk"))
        newest = mine.exclude(state=MessageState.REJECTED).order_by("-created_at", "-id")
        return self.annotate(task=Subquery(newest.values(head=Substr("text", 1, 200))[:1]))
