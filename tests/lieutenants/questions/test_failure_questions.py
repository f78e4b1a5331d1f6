"""Lieutenants that failed after all their restarts: people are asked what to do."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from lieutenants.models import Lieutenant, Question
from lieutenants.questions import deadlines, failures, services
from lieutenants.questions.states import QuestionState
from lieutenants.states import MAX_RESTARTS, Status
from reef_site.common.errors import ReefError
from tests.conftest import STANDIN
from tests.dispatching import drop_tasks
from tests.lieutenants.rows import enlist

pytestmark = pytest.mark.django_db


@pytest.fixture
def failed(settings: Any, monkeypatch: pytest.MonkeyPatch) -> Lieutenant:
    """A lieutenant in error without further restarts."""
    settings.PI_PATH = str(STANDIN)
    drop_tasks(monkeypatch, "lieutenants.settle")
    return enlist(
        "ada",
        Status.ERROR,
        error="The agent ended with exit code 1.",
        restart_policy="on-failure",
        restarts=MAX_RESTARTS,
    )


def test_person_is_asked_once_for_each_failure(failed: Lieutenant) -> None:
    assert failures.ask_about_failures() == 1
    question = Question.objects.get()
    assert (question.kind, question.source) == ("select", "failure")
    assert question.details == "The agent ended with exit code 1."
    assert failures.ask_about_failures() == 0
    services.answer(question.pk, "leave", actor="bea")
    assert failures.ask_about_failures() == 0
    assert Lieutenant.objects.get().status == Status.ERROR
    # It was restarted, and has failed again.
    Lieutenant.objects.update(status_since=timezone.now() + timedelta(seconds=1))
    assert failures.ask_about_failures() == 1


def test_answer_restarts_the_lieutenant(failed: Lieutenant) -> None:
    failures.ask_about_failures()
    services.answer(Question.objects.get().pk, "restart", actor="bea")
    failed.refresh_from_db()
    assert (failed.status, failed.restarts) == (Status.STARTING, 0)
    assert failed.moves.latest("id").actor == "bea"


def test_answer_that_cannot_be_carried_out_is_no_answer(failed: Lieutenant, settings: Any) -> None:
    failures.ask_about_failures()
    settings.PI_PATH = "/nowhere/pi"
    with pytest.raises(ReefError):
        services.answer(Question.objects.get().pk, "restart", actor="bea")
    assert Question.objects.get().is_open


def test_question_is_withdrawn_when_the_failure_is_over(failed: Lieutenant) -> None:
    failures.ask_about_failures()
    assert deadlines.withdraw_orphaned() == 0
    Lieutenant.objects.update(status=Status.PAUSED)
    assert deadlines.withdraw_orphaned() == 1
    question = Question.objects.get()
    assert (question.state, question.note) == (
        QuestionState.WITHDRAWN,
        "it is in error no longer",
    )


@pytest.mark.parametrize(
    "fields",
    [
        {"restarts": MAX_RESTARTS - 1},
        {"restart_policy": "never"},
        {"restart_at": timezone.now()},
        {"status": Status.PAUSED},
    ],
)
def test_nobody_is_asked_otherwise(failed: Lieutenant, fields: dict[str, Any]) -> None:
    Lieutenant.objects.update(**fields)
    assert failures.ask_about_failures() == 0
