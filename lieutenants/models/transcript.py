"""Transcripts: answers, their entries, and pieces of those that are still streaming."""

from __future__ import annotations

from django.db import models
from django.db.models import Q

from lieutenants.models.lieutenants import Lieutenant
from lieutenants.models.messages import Message
from lieutenants.models.processes import Process
from lieutenants.states import Outcome


class Answer(models.Model):
    """One turn of the agent, from its start of work to its end, with its text."""

    lieutenant = models.ForeignKey(Lieutenant, models.CASCADE, related_name="answers")
    process = models.ForeignKey(Process, models.CASCADE, related_name="answers")
    message = models.ForeignKey(Message, models.SET_NULL, null=True, blank=True)
    started_at = models.DateTimeField()
    ended_at = models.DateTimeField(null=True, blank=True)
    outcome = models.CharField(max_length=20, choices=Outcome.choices, default=Outcome.OPEN)
    text = models.TextField(blank=True, help_text="Its text blocks joined, once it has ended.")
    error = models.TextField(blank=True)

    class Meta:
        ordering = ["id"]
        indexes = [
            models.Index(fields=["lieutenant", "outcome"], name="answer_by_outcome"),
            models.Index(fields=["outcome", "ended_at"], name="answer_by_end"),
        ]

    def __str__(self) -> str:
        return f"answer {self.pk} ({self.outcome})"


class Entry(models.Model):
    """One item of the transcript."""

    class Kind(models.TextChoices):
        USER = "user", "message"
        THINKING = "thinking", "thinking"
        TEXT = "text", "text"
        TOOL_CALL = "tool_call", "tool call"
        TOOL_RESULT = "tool_result", "tool result"
        ERROR = "error", "error"
        NOTICE = "notice", "notice"
        USAGE = "usage", "usage"

    lieutenant = models.ForeignKey(Lieutenant, models.CASCADE, related_name="entries")
    process = models.ForeignKey(Process, models.CASCADE, related_name="entries")
    answer = models.ForeignKey(
        Answer, models.SET_NULL, null=True, blank=True, related_name="entries"
    )
    message = models.ForeignKey(Message, models.SET_NULL, null=True, blank=True)
    kind = models.CharField(max_length=20, choices=Kind.choices)
    # Index of the content block in the agent's message while that is still streaming.
    block = models.PositiveIntegerField(null=True, blank=True)
    tool = models.CharField(max_length=200, blank=True)
    call_id = models.CharField(max_length=200, blank=True)
    text = models.TextField(blank=True)
    data = models.JSONField(default=dict, blank=True)
    is_error = models.BooleanField(default=False)
    final = models.BooleanField(default=True)
    rev = models.BigIntegerField()
    at = models.DateTimeField()

    # Number of characters of `text` that the query for a page did not load.
    left_out = 0

    class Meta:
        ordering = ["id"]
        verbose_name_plural = "entries"
        indexes = [
            models.Index(fields=["lieutenant", "rev"], name="entry_by_rev"),
            models.Index(fields=["lieutenant", "id"], name="entry_by_id"),
            models.Index(fields=["process"], condition=Q(final=False), name="entry_still_open"),
        ]

    def __str__(self) -> str:
        return f"{self.kind} {self.pk}"


class Chunk(models.Model):
    """A piece of text of an entry that is still streaming; deleted when the entry is final."""

    lieutenant = models.ForeignKey(Lieutenant, models.CASCADE, related_name="chunks")
    entry = models.ForeignKey(Entry, models.CASCADE, related_name="chunks")
    rev = models.BigIntegerField()
    text = models.TextField()

    class Meta:
        ordering = ["id"]
        indexes = [models.Index(fields=["lieutenant", "rev"], name="chunk_by_rev")]

    def __str__(self) -> str:
        return f"chunk {self.pk} of entry {self.entry_id}"
