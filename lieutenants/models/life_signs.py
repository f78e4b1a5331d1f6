"""Heartbeats of reef's own processes."""

from __future__ import annotations

from datetime import datetime

from django.db import models
from django.db.models import QuerySet

from reef_site.common import clock


class LifeSign(models.Model):
    """Heartbeat of a process of reef, such as `follower@host` or `worker@host`."""

    who = models.CharField(primary_key=True, max_length=300)
    at = models.DateTimeField()

    def __str__(self) -> str:
        return self.who

    @classmethod
    def give(cls, who: str) -> None:
        """Record a heartbeat of `who`, by the clock that all hosts share."""
        cls.objects.update_or_create(who=who, defaults={"at": clock.database_now()})

    @classmethod
    def latest(cls, prefix: str, until: datetime | None = None) -> datetime | None:
        """Return the newest heartbeat of all processes of a kind, such as `worker`.

        Heartbeats after `until` were written by a wrong clock and are ignored.
        """
        signs: QuerySet[LifeSign] = cls.objects.filter(who__startswith=prefix + "@")
        if until is not None:
            signs = signs.filter(at__lte=until)
        at: datetime | None = signs.aggregate(newest=models.Max("at"))["newest"]
        return at
