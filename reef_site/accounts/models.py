"""Counters of failed sign-in attempts."""

from __future__ import annotations

from django.db import models


class AttemptCount(models.Model):
    """Number of failed sign-in attempts in one bucket: an account, an address, or a known browser.

    `key` is a hash: what somebody typed as a name may be a password.
    """

    key = models.CharField(max_length=64, primary_key=True)
    failures = models.PositiveIntegerField(default=0)
    blocked_until = models.DateTimeField(null=True, blank=True)
    updated_at = models.DateTimeField(db_index=True)

    class Meta:
        verbose_name = "sign-in attempt count"

    def __str__(self) -> str:
        return f"{self.failures} failed attempts until {self.updated_at}"
