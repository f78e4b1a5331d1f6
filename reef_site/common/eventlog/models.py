"""Rows of the event log."""

from __future__ import annotations

from typing import Any, NoReturn

from django.db import models

from reef_site.common import clock


class AppendOnly(Exception):
    """Attempt to change or delete a single event."""


class Event(models.Model):
    """One event. Its id is its number: higher ones were recorded later.

    The number alone is no place to continue from, because transactions may commit in another
    order: see `reading`.
    """

    at = models.DateTimeField(default=clock.now)
    # "<topic>.<what happened>", such as "vm.registered"; the topic has a column for its index.
    kind = models.CharField(max_length=60)
    topic = models.CharField(max_length=20)
    subject = models.CharField(max_length=255, help_text="Id or name of what it happened to.")
    vm_id = models.CharField(
        "VM id", max_length=255, blank=True, help_text="The VM that it is about, if one."
    )
    actor = models.CharField(max_length=200)
    detail = models.JSONField(default=dict, blank=True)

    class Meta:
        ordering = ["-id"]
        indexes = [
            models.Index(fields=["at"], name="event_by_time"),
            models.Index(fields=["topic", "id"], name="event_of_topic"),
            models.Index(fields=["vm_id", "id"], name="event_of_vm"),
            models.Index(fields=["subject", "id"], name="event_of_subject"),
            models.Index(fields=["actor", "id"], name="event_of_actor"),
        ]

    def __str__(self) -> str:
        return f"{self.kind} {self.subject}"

    def save(self, *args: Any, **kwargs: Any) -> None:
        """Insert the row. Raises AppendOnly for a row that exists."""
        if not self._state.adding:
            raise AppendOnly
        super().save(*args, **kwargs)

    def delete(self, *_args: Any, **_kwargs: Any) -> NoReturn:
        """Raise AppendOnly; only `retention` deletes rows."""
        raise AppendOnly
