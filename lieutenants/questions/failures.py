"""Failures that need a decision: lieutenants that failed again after all their restarts."""

from __future__ import annotations

from django.db.models import Exists, OuterRef

from lieutenants.membership import vm_id_of
from lieutenants.models import Lieutenant, Question
from lieutenants.questions.states import MAX_TEXT_LENGTH, Kind, QuestionState, Source
from lieutenants.states import MAX_RESTARTS, RestartPolicy, Status
from reef_site.common.text import clip

BATCH_SIZE = 100
RESTART = "restart"
OPTIONS = [
    {"value": RESTART, "label": "Restart its agent"},
    {"value": "leave", "label": "Leave it in error"},
]


def ask_about_failures() -> int:
    """Ask once about each lieutenant whose restarts are used up; return how many are new."""
    asked = Question.objects.filter(
        source=Source.FAILURE,
        lieutenant=OuterRef("pk"),
        created_at__gte=OuterRef("status_since"),
    )
    failed = Lieutenant.objects.filter(
        status=Status.ERROR,
        restart_at=None,
        restart_policy=RestartPolicy.ON_FAILURE,
        restarts__gte=MAX_RESTARTS,
    )
    rows = failed.filter(~Exists(asked))[:BATCH_SIZE]
    for row in rows:
        _ask(row)
    return len(rows)


def wants_restart(question: Question) -> bool:
    """Return whether a failed lieutenant is to be restarted by the answer."""
    is_answered = question.state == QuestionState.ANSWERED
    return is_answered and question.source == Source.FAILURE and question.answer == RESTART


def _ask(row: Lieutenant) -> None:
    question = Question(
        vm_id=vm_id_of(row),
        lieutenant=row,
        kind=Kind.SELECT,
        source=Source.FAILURE,
        text=f"{row.name} failed again after {MAX_RESTARTS} restarts. Restart it once more?",
        details=clip(row.error, MAX_TEXT_LENGTH),
        options=OPTIONS,
    )
    question.insert(actor="reef")
