"""Tools that ask people and answer agents, and what the event log has of it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from lieutenants.models import Lieutenant, Question
from lieutenants.questions import services
from reef_site.audit.models import Record
from reef_site.common.eventlog.models import Event
from tests.conftest import Api
from tests.lieutenants.questions.test_questions_api import as_, confirmation, lieutenant

pytestmark = pytest.mark.django_db


@pytest.fixture
def ada() -> Lieutenant:
    return lieutenant("ada")


@pytest.fixture
def bea(ada: Lieutenant) -> Lieutenant:
    return lieutenant("bea", ada.pk)


def call(api: Api, tool: str, /, **arguments: object) -> Any:
    answer = api.post(f"/tools/{tool}", arguments)
    assert answer.status_code == 200, answer.content
    return answer.json()


def test_agent_asks_waits_and_gets_the_answer(bea: Lieutenant, api: Api) -> None:
    by = as_(bea)
    held = by.post("/tools/reef_ask", {"text": "Deploy?", "options": ["now", "later"]})
    pk = Question.objects.get().pk
    assert json.loads(held.headers["Reef-Wait"])["questions"] == [pk]
    assert held.json()["text"] == (
        f'Not yet: question {pk} is open. Call reef_wait with questions ["{pk}"] to go on waiting.'
    )
    assert call(api, "reef_answer", question=pk, answer="now")["isError"] is False
    done = call(by, "reef_wait", questions=[pk])
    assert done["text"] == f"Done: question {pk} is answered: now."


def test_question_without_a_wait_returns_at_once(bea: Lieutenant) -> None:
    asked = as_(bea).post("/tools/reef_ask", {"text": "Deploy?", "seconds": 0})
    assert "Reef-Wait" not in asked.headers
    assert asked.json()["details"]["done"] is False


@pytest.mark.parametrize(
    ("decide", "text"),
    [
        (lambda pk: services.answer(pk, None, actor="x"), "dismissed: decide yourself"),
        (lambda pk: services.withdraw(pk, actor="x"), "withdrawn"),
    ],
)
def test_wait_tells_every_decision(bea: Lieutenant, decide: Any, text: str) -> None:
    by = as_(bea)
    call(by, "reef_ask", text="Deploy?", seconds=0)
    pk = Question.objects.get().pk
    decide(pk)
    assert call(by, "reef_wait", questions=[pk])["text"] == f"Done: question {pk} is {text}."


def test_agent_above_lists_and_answers(ada: Lieutenant, bea: Lieutenant) -> None:
    question = confirmation(bea, text="Sure?", details="rm")
    listed = call(as_(ada), "reef_questions")
    assert listed["text"] == f"{question.pk} from bea (yes or no):\nSure?\nrm"
    refused = call(as_(bea), "reef_answer", question=question.pk, answer="yes")
    assert refused["isError"] is True
    unclear = call(as_(ada), "reef_answer", question=question.pk)
    assert unclear["text"] == "Error: answer: give either an answer or dismiss"
    done = call(as_(ada), "reef_answer", question=question.pk, answer="Yes")
    assert done["text"] == f"Question {question.pk} is answered: yes."
    assert call(as_(ada), "reef_questions")["text"] == "No open questions."
    assert Record.objects.latest("pk").target == f"reef_answer {question.pk}"


def test_stranger_may_not_wait_for_a_question(ada: Lieutenant, bea: Lieutenant) -> None:
    call(as_(ada), "reef_ask", text="Deploy?", seconds=0)
    pk = Question.objects.get().pk
    assert call(as_(bea), "reef_wait", questions=[pk])["isError"] is True


def test_event_log_has_questions_and_decisions(bea: Lieutenant, api: Api) -> None:
    call(as_(bea), "reef_ask", text="Deploy?", seconds=0)
    question = Question.objects.get()
    call(api, "reef_answer", question=question.pk, answer="later")
    asked, answered = Event.objects.filter(topic="question").order_by("pk")
    assert (asked.kind, asked.subject, asked.vm_id) == ("question.asked", question.pk, bea.pk)
    assert asked.actor == f"node {bea.pk}"
    assert asked.detail == {"lieutenant": "bea", "kind": "ask", "text": "Deploy?"}
    assert (answered.kind, answered.actor) == ("question.answered", "root token")
    # The answer may be a secret, and the log goes to receivers of webhooks.
    assert answered.detail == {**asked.detail, "note": ""}
