"""Counters of failed sign-in attempts and of the requests of tokens; settings of people."""

from __future__ import annotations

from django.conf import settings
from django.db import models


class RequestCount(models.Model):
    """Number of requests of one token in one minute, as `request_counts` shares it."""

    key = models.CharField(max_length=64)
    # Minutes since the epoch.
    window = models.PositiveBigIntegerField(db_index=True)
    count = models.PositiveIntegerField(default=0)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["key", "window"], name="one_request_count_a_window")
        ]

    def __str__(self) -> str:
        return f"{self.count} requests of {self.key}"


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


class Preferences(models.Model):
    """Settings that a person has made for their pages."""

    user = models.OneToOneField(
        settings.AUTH_USER_MODEL, models.CASCADE, primary_key=True, related_name="preferences"
    )
    time_zone = models.CharField(max_length=64, blank=True, help_text="Empty: that of the browser.")

    class Meta:
        verbose_name_plural = "preferences"

    def __str__(self) -> str:
        return f"preferences of {self.user}"
