"""Tokens and costs of model calls."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.db import models

from lieutenants.models.lieutenants import Lieutenant
from lieutenants.models.messages import Message
from lieutenants.models.transcript import Answer


class UsageQuerySet(models.QuerySet["Usage"]):
    _CLASSES = ("input", "output", "cache_read", "cache_write", "cost")

    def _sums(self) -> dict[str, models.Aggregate]:
        sums = {f"total_{name}": models.Sum(name) for name in self._CLASSES}
        return {**sums, "calls": models.Count("pk")}

    def sums(self) -> dict[str, Any]:
        """Return the number of calls and the sums of their usage.

        Keys: calls, total_cost (US dollars), and total_input, total_output, total_cache_read,
        total_cache_write (tokens).
        """
        return self.aggregate(**self._sums())

    def sums_by_day(self) -> list[dict[str, Any]]:
        """Return the sums of each day (UTC), newest first."""
        days = self.order_by("-day").values("day").annotate(**self._sums())
        return [dict(row) for row in days]

    def sums_by_lieutenant(self, pks: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Map ids of lieutenants to their sums; those without usage are left out."""
        rows = self.filter(lieutenant__in=pks).order_by().values("lieutenant_id")
        return {row["lieutenant_id"]: dict(row) for row in rows.annotate(**self._sums())}

    def sums_by_message(self, pks: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Map ids of messages to their sums; those without usage are left out."""
        rows = self.filter(message__in=pks).order_by().values("message_id")
        return {row["message_id"]: dict(row) for row in rows.annotate(**self._sums())}

    def sums_by_answer(self, pks: Sequence[int]) -> dict[int, dict[str, Any]]:
        """Map ids of answers to their sums; those without usage are left out."""
        rows = self.filter(answer__in=pks).order_by().values("answer_id")
        return {row["answer_id"]: dict(row) for row in rows.annotate(**self._sums())}


class Usage(models.Model):
    """Tokens and cost of one model call, as the agent reported them."""

    lieutenant = models.ForeignKey(Lieutenant, models.CASCADE, related_name="usage")
    message = models.ForeignKey(
        Message, models.SET_NULL, null=True, blank=True, related_name="usage"
    )
    answer = models.ForeignKey(Answer, models.SET_NULL, null=True, blank=True, related_name="usage")
    provider = models.CharField(max_length=100, blank=True)
    model = models.CharField(max_length=200, blank=True)
    stop_reason = models.CharField(max_length=40, blank=True)
    input = models.BigIntegerField(default=0)
    output = models.BigIntegerField(default=0)
    cache_read = models.BigIntegerField(default=0)
    cache_write = models.BigIntegerField(default=0)
    cost = models.DecimalField(max_digits=18, decimal_places=9, default=0, help_text="US dollars")
    at = models.DateTimeField()
    day = models.DateField(db_index=True, help_text="UTC")

    objects = UsageQuerySet.as_manager()

    class Meta:
        ordering = ["-id"]
        verbose_name_plural = "usage"
        indexes = [models.Index(fields=["lieutenant", "day"], name="usage_by_day")]

    def __str__(self) -> str:
        return f"{self.model}: {self.input} in, {self.output} out"
