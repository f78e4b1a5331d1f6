"""Questions that an agent needs a person for."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Self

from django.conf import settings
from django.db import models, transaction
from django.db.models import Q
from django.utils import timezone

from lieutenants.questions.states import QUESTION_MOVES, Kind, QuestionState, Source
from lieutenants.states import Status
from reef_site.common import events
from reef_site.common.errors import IllegalMove, LostRace
from reef_site.common.eventlog import recording
from reef_site.common.ids import new_ulid


class QuestionQuerySet(models.QuerySet["Question"]):
    def open(self) -> Self:
        """Questions that nobody has decided yet."""
        return self.filter(state=QuestionState.OPEN)

    def overdue(self, now: datetime) -> Self:
        """Open questions whose deadline has passed."""
        return self.open().filter(deadline__lte=now)

    def orphaned(self) -> Self:
        """Open questions for whose answers nobody waits any more.

        These are dialogs of a process that has ended, questions of destroyed lieutenants, and
        failures that are over. A process that is frozen in a paused VM goes on waiting.
        """
        ended = Q(process__ended_at__isnull=False, process__is_frozen=False)
        is_over = Q(source=Source.FAILURE) & ~Q(lieutenant__status=Status.ERROR)
        return self.open().filter(ended | is_over | Q(lieutenant__status=Status.DESTROYED))

    def relevant_here(self) -> Self:
        """Questions that followers of this data folder must know: open ones, and open dialogs."""
        here = self.filter(lieutenant__data_folder=settings.DATA_FOLDER_ID)
        return here.filter(Q(state=QuestionState.OPEN) | Q(is_awaited=True))

    def abandoned(self) -> Self:
        """Decided dialogs whose answers no agent waits for any more: its process has ended."""
        ended = self.filter(process__ended_at__isnull=False, process__is_frozen=False)
        return ended.filter(is_awaited=True).exclude(state=QuestionState.OPEN)


class Question(models.Model):
    """One question of an agent, and how it was decided."""

    id = models.CharField(primary_key=True, max_length=26, default=new_ulid, editable=False)
    # The node of the agent that asks; for a lieutenant its id.
    vm_id = models.CharField("VM", max_length=255, db_index=True)
    lieutenant = models.ForeignKey(
        "lieutenants.Lieutenant",
        models.CASCADE,
        null=True,
        blank=True,
        related_name="questions",
        help_text="Empty if an agent on a VM of its own asks.",
    )
    # Of a dialog: the process whose agent waits, and the dialog's id in its journal.
    process = models.ForeignKey(
        "lieutenants.Process", models.CASCADE, null=True, blank=True, related_name="questions"
    )
    request_id = models.CharField(max_length=200, blank=True)
    kind = models.CharField(max_length=12, choices=Kind.choices)
    source = models.CharField(max_length=12, choices=Source.choices)
    text = models.TextField()
    details = models.TextField(blank=True)
    # [{"value": …, "label": …}, …]
    options = models.JSONField(default=list, blank=True)
    prefill = models.TextField(blank=True, help_text="Text to begin with.")
    placeholder = models.CharField(max_length=200, blank=True)
    default = models.JSONField(null=True, blank=True, help_text="The answer after the deadline.")
    deadline = models.DateTimeField(null=True, blank=True)
    state = models.CharField(
        max_length=10, choices=QuestionState.choices, default=QuestionState.OPEN
    )
    # A text, or true or false for a confirmation; null is a dismissal.
    answer = models.JSONField(null=True, blank=True)
    decided_by = models.CharField(max_length=200, blank=True)
    decided_at = models.DateTimeField(null=True, blank=True)
    note = models.CharField(max_length=200, blank=True, help_text="Why it was not answered.")
    is_awaited = models.BooleanField(
        default=False, help_text="Its dialog is open in the agent, and gets the answer."
    )
    delivered_at = models.DateTimeField(
        null=True, blank=True, help_text="When the agent's dialog got the answer."
    )
    created_at = models.DateTimeField(default=timezone.now)

    objects = QuestionQuerySet.as_manager()

    class Meta:
        app_label = "lieutenants"
        ordering = ["-created_at", "-id"]
        constraints = [
            models.CheckConstraint(
                condition=Q(state__in=QuestionState.values), name="question_state_is_known"
            ),
            models.CheckConstraint(
                condition=Q(kind__in=Kind.values), name="question_kind_is_known"
            ),
            models.CheckConstraint(
                condition=Q(source__in=Source.values), name="question_source_is_known"
            ),
            models.CheckConstraint(
                condition=Q(state="open", decided_at__isnull=True)
                | (~Q(state="open") & Q(decided_at__isnull=False)),
                name="question_is_open_or_decided",
            ),
            models.CheckConstraint(
                condition=~Q(source="dialog")
                | (Q(process__isnull=False, lieutenant__isnull=False) & ~Q(request_id="")),
                name="question_of_dialog_has_process",
            ),
            models.UniqueConstraint(
                fields=["process", "request_id"],
                condition=Q(source="dialog"),
                name="one_question_a_dialog",
            ),
            models.UniqueConstraint(
                fields=["lieutenant"],
                condition=Q(source="failure", state="open"),
                name="one_open_failure_a_lieutenant",
            ),
        ]
        indexes = [
            models.Index(fields=["deadline"], condition=Q(state="open"), name="question_open"),
            models.Index(
                fields=["process"],
                condition=Q(is_awaited=True),
                name="question_awaited",
            ),
            models.Index(fields=["created_at", "id"], name="question_by_time"),
        ]

    def __str__(self) -> str:
        return self.text[:60]

    @property
    def is_open(self) -> bool:
        return self.state == QuestionState.OPEN

    @property
    def answer_label(self) -> str:
        """Return the answer as text for people; empty without one."""
        decided = (QuestionState.ANSWERED, QuestionState.DEFAULTED)
        return self._shown(self.answer) if self.state in decided else ""

    def _shown(self, answer: Any) -> str:
        if answer is None:
            return "dismissed"
        if isinstance(answer, bool):
            return "yes" if answer else "no"
        labels = {each["value"]: each["label"] for each in self.options}
        return str(labels.get(answer, answer))

    @property
    def decision(self) -> str:
        """Return state and answer, for the agent that asked."""
        if self.state == QuestionState.ANSWERED:
            answer = self.answer_label
            return "dismissed: decide yourself" if self.answer is None else f"answered: {answer}"
        if self.state == QuestionState.DEFAULTED:
            return f"not answered in time, so the default counts: {self.answer_label}"
        return "not answered in time" if self.state == QuestionState.EXPIRED else self.state

    def decide(
        self, to: QuestionState, *, actor: str = "", answer: Any = None, note: str = ""
    ) -> None:
        """Decide an open question. Raises IllegalMove, or LostRace if it was decided meanwhile."""
        old = QuestionState(self.state)
        if to not in QUESTION_MOVES[old]:
            raise IllegalMove(f"question: is {old} already")
        facts: dict[str, Any] = {"state": to, "answer": answer, "note": note[:200]}
        facts |= {"decided_by": actor[:200], "decided_at": timezone.now()}
        with transaction.atomic():
            # The WHERE clause is the lock: only one of two answers finds the row.
            if not Question.objects.filter(pk=self.pk, state=old).update(**facts):
                raise LostRace("question: was decided meanwhile")
            self.record(to.value, actor=actor or "reef", note=note)
            self.publish()
        for name, value in facts.items():
            setattr(self, name, value)

    def insert(self, *, actor: object) -> None:
        """Insert the row of a question that was just asked. Raises IntegrityError."""
        with transaction.atomic():
            self.save(force_insert=True)
            self.record("asked", actor=actor)
            self.publish()

    def record(self, what: str, *, actor: object, **detail: str) -> None:
        """Record in the event log that the question was asked or decided, without its answer."""
        name = self.lieutenant.name if self.lieutenant else ""
        facts = {"lieutenant": name, "kind": self.kind, "text": self.text, **detail}
        recording.record(f"question.{what}", self.pk, actor=actor, detail=facts, vm_id=self.vm_id)

    def publish(self) -> None:
        """Publish that the question changed, and wake the follower of its lieutenant."""
        events.publish_questions([self.pk])
        if self.lieutenant_id:
            events.publish_lieutenant(self.lieutenant_id)
            events.wake_follower(self.lieutenant_id)
