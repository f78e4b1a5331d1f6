"""Days of a time zone, and what they cost: the bounds of reports."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta, tzinfo

from django.utils import timezone

from lieutenants.usage.models import slot_of
from reef_site.common import clock

HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
WEEK_DAYS = 7


@dataclass(frozen=True)
class Periods:
    """Now, and the days that end with today, in one time zone."""

    now: datetime
    zone: tzinfo

    @classmethod
    def current(cls, zone: tzinfo | None = None) -> Periods:
        """Return the periods of this moment; without a zone in that of the reader."""
        return cls(clock.now(), zone or timezone.get_current_timezone())

    def start_of(self, days_ago: int) -> datetime:
        """Return the midnight at which that day begins."""
        return clock.midnight(self.now.astimezone(self.zone).date() - days_ago * DAY, self.zone)

    @property
    def today(self) -> datetime:
        return self.start_of(0)

    @property
    def yesterday(self) -> datetime:
        return self.start_of(1)

    @property
    def week(self) -> datetime:
        """The beginning of the last seven days, of which today is one."""
        return self.start_of(WEEK_DAYS - 1)

    @property
    def yesterday_so_far(self) -> datetime:
        """The end of what compares with today so far, to a quarter of an hour."""
        local = self.now.astimezone(self.zone)
        same = local.replace(tzinfo=None) - DAY
        return min(slot_of(same.replace(tzinfo=self.zone)), self.today)

    @property
    def rate_since(self) -> datetime:
        """The beginning of the slots that the rate per hour is taken from."""
        return slot_of(self.now - HOUR)

    @property
    def rate_hours(self) -> float:
        return (self.now - self.rate_since) / HOUR
