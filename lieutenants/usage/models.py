"""Usage by quarters of an hour, so that days in any time zone can be summed up quickly."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from django.db import models

# All time zones are whole quarters of an hour away from UTC.
SLOT = timedelta(minutes=15)


def slot_of(at: datetime) -> datetime:
    """Return the beginning of the quarter of an hour."""
    utc = at.astimezone(UTC)
    return utc.replace(minute=utc.minute - utc.minute % 15, second=0, microsecond=0)


class UsageSlot(models.Model):
    """The usage of one lieutenant and one model in a quarter of an hour, which begins at `slot`.

    `sums.add` keeps it equal to the sums of `Usage`, and it stays when old rows there are deleted.
    """

    # The unique constraint has the index.
    lieutenant = models.ForeignKey(
        "lieutenants.Lieutenant", models.CASCADE, related_name="usage_slots", db_index=False
    )
    slot = models.DateTimeField()
    provider = models.CharField(max_length=100, blank=True)
    model = models.CharField(max_length=200, blank=True)
    calls = models.BigIntegerField(default=0)
    input = models.BigIntegerField(default=0)
    output = models.BigIntegerField(default=0)
    cache_read = models.BigIntegerField(default=0)
    cache_write = models.BigIntegerField(default=0)
    cost = models.DecimalField(max_digits=18, decimal_places=9, default=0, help_text="US dollars")

    class Meta:
        app_label = "lieutenants"
        ordering = ["slot", "id"]
        constraints = [
            models.UniqueConstraint(
                fields=["lieutenant", "slot", "provider", "model"], name="one_usage_slot"
            )
        ]
        indexes = [models.Index(fields=["slot"], name="usage_slot_by_time")]

    def __str__(self) -> str:
        return f"{self.model}: {self.calls} calls from {self.slot}"
