"""Periodic work on questions: defaults at deadlines, withdrawal, and retention."""

from __future__ import annotations

from datetime import timedelta

from django.conf import settings
from django.db.models import Q
from django.utils import timezone

from lieutenants.models import Question
from lieutenants.questions.states import QuestionState, Source
from reef_site.common.errors import LostRace
from reef_site.common.retention import delete_in_batches

# How many rows one tick decides.
BATCH_SIZE = 500
AGENT_ENDED, NO_ERROR = "its agent ended", "it is in error no longer"


def decide_overdue() -> int:
    """Decide the questions whose deadlines have passed; return their number."""
    count = 0
    for question in Question.objects.overdue(timezone.now())[:BATCH_SIZE]:
        has_default = question.default is not None
        to = QuestionState.DEFAULTED if has_default else QuestionState.EXPIRED
        count += _decide_if_open(question, to, note="nobody answered in time")
    return count


def withdraw_orphaned() -> int:
    """Withdraw the questions for whose answers no agent waits any more; return their number."""
    count = 0
    for question in Question.objects.orphaned()[:BATCH_SIZE]:
        note = NO_ERROR if question.source == Source.FAILURE else AGENT_ENDED
        count += _decide_if_open(question, QuestionState.WITHDRAWN, note=note)
    Question.objects.filter(pk__in=Question.objects.abandoned().values("pk")).update(
        is_awaited=False
    )
    return count


def prune() -> int:
    """Delete questions that were decided long ago; return how many.

    Those of processes that have not ended stay, lest a journal that is read again asks them again.
    """
    oldest = timezone.now() - timedelta(days=settings.QUESTION_DAYS)
    old = Question.objects.exclude(state=QuestionState.OPEN).filter(decided_at__lt=oldest)
    ended = Q(process__ended_at__isnull=False, process__is_frozen=False)
    gone = old.filter(Q(process__isnull=True) | ended, is_awaited=False)
    return delete_in_batches(gone)


def _decide_if_open(question: Question, to: QuestionState, *, note: str) -> int:
    answer = question.default if to is QuestionState.DEFAULTED else None
    try:
        question.decide(to, actor="reef", answer=answer, note=note)
    except LostRace:
        # Someone answered it in this moment.
        return 0
    return 1
