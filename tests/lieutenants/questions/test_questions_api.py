"""The API of questions: who asks, who answers, in which order they are listed."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from lieutenants.models import Lieutenant, Question
from lieutenants.questions import deadlines, listing, services
from lieutenants.questions.states import MAX_OPEN, QuestionState
from tests.conftest import Api
from tests.lieutenants.rows import enlist, process_of
from tests.vmtree.conftest import NodeApi
from vmtree import services as tree
from vmtree import tokens
from vmtree.models import Node
from vmtree.services import NewNode

AT = "/lieutenant/questions"

pytestmark = pytest.mark.django_db


def lieutenant(name: str, under: str = "", **fields: Any) -> Lieutenant:
    """Create a lieutenant with a node."""
    row = enlist(name, **fields)
    tree.create(NewNode(name, "lieutenant", row.pk, parent_vm_id=under), by="tests")
    return row


def as_(row: Lieutenant) -> NodeApi:
    return NodeApi(tokens.issue(Node.objects.get(vm_id=row.pk), made_by="tests"))


@pytest.fixture
def family() -> dict[str, Lieutenant]:
    """ada → (bea → cyd), and dan beside her."""
    ada = lieutenant("ada")
    bea = lieutenant("bea", ada.pk)
    cyd = lieutenant("cyd", bea.pk)
    return {"ada": ada, "bea": bea, "cyd": cyd, "dan": lieutenant("dan")}


def ask(by: Api, **fields: Any) -> Any:
    return by.post(AT, {"text": "Deploy now?", **fields})


def confirmation(row: Lieutenant, **fields: Any) -> Question:
    """Create the question of a dialog."""
    process = row.live_process() or process_of(row)
    usual = {"kind": "confirm", "source": "dialog", "text": "Sure?", "is_awaited": True}
    usual |= {"request_id": f"d{Question.objects.count()}"}
    return Question.objects.create(
        vm_id=row.pk, lieutenant=row, process=process, **{**usual, **fields}
    )


def test_agent_asks_and_an_operator_answers(family: dict[str, Lieutenant], api: Api) -> None:
    asked = ask(as_(family["bea"]), options=["yes", "later", "yes"], deadlineSeconds=60)
    assert asked.status_code == 201, asked.content
    facts = asked.json()
    assert (facts["lieutenant"], facts["kind"], facts["source"]) == ("bea", "ask", "tool")
    assert [each["value"] for each in facts["options"]] == ["yes", "later"]
    assert (facts["state"], facts["answer"], facts["decidedBy"]) == ("open", None, None)

    answered = api.post(f"{AT}/{facts['id']}/answer", {"answer": "in an hour"})
    assert answered.status_code == 200, answered.content
    read = as_(family["bea"]).get(f"{AT}/{facts['id']}").json()
    assert (read["state"], read["answer"], read["decidedBy"]) == (
        "answered",
        "in an hour",
        "root token",
    )
    again = api.post(f"{AT}/{facts['id']}/answer", {"answer": "no"})
    assert again.status_code == 409
    assert again.json()["error"] == "question: was answered by root token already"


def test_only_agents_ask(family: dict[str, Lieutenant], api: Api) -> None:
    refused = ask(api)
    assert refused.status_code == 403
    assert services.ONLY_AGENTS in refused.json()["error"]


@pytest.mark.parametrize(
    ("caller", "reads", "answers"),
    [
        ("ada", 200, 200),
        ("bea", 200, 403),
        ("cyd", 403, 403),
        ("dan", 403, 403),
    ],
)
def test_ancestors_answer_and_nobody_else(
    family: dict[str, Lieutenant], caller: str, reads: int, answers: int
) -> None:
    question = confirmation(family["bea"])
    by = as_(family[caller])
    assert by.get(f"{AT}/{question.pk}").status_code == reads
    assert len(by.get(AT).json()["questions"]) == (reads == 200)
    assert by.post(f"{AT}/{question.pk}/answer", {"answer": True}).status_code == answers
    question.refresh_from_db()
    assert question.is_open == (answers != 200)
    if answers == 200:
        assert question.decided_by == f"node {family['ada'].pk}"


@pytest.mark.parametrize(
    ("fields", "value", "problem"),
    [
        ({"kind": "confirm"}, "yes", "answer: must be true, false or null"),
        ({"kind": "input"}, True, "answer: must be a text"),
        ({"kind": "input"}, 7, "answer: must be a text, true, false or null"),
        ({"kind": "select"}, "c", "answer: must be the value of an option"),
        ({"kind": "permission"}, "c", "answer: must be the value of an option"),
        ({"kind": "ask"}, "  ", "answer is required"),
        ({"kind": "editor"}, "x" * 200_001, "answer: at most 200000 characters"),
    ],
)
def test_answer_must_be_what_the_question_asks_for(
    family: dict[str, Lieutenant], api: Api, fields: Any, value: Any, problem: str
) -> None:
    options = [{"value": "a", "label": "A"}, {"value": "b", "label": "B"}]
    question = confirmation(family["bea"], options=options, **fields)
    refused = api.post(f"{AT}/{question.pk}/answer", {"answer": value})
    assert (refused.status_code, refused.json()["error"]) == (400, problem)
    question.refresh_from_db()
    assert question.is_open


def test_answer_must_be_given(family: dict[str, Lieutenant], api: Api) -> None:
    question = confirmation(family["bea"])
    assert api.post(f"{AT}/{question.pk}/answer", {}).status_code == 400
    assert api.post(f"{AT}/{question.pk}/answer", {"answr": True}).status_code == 400
    dismissed = api.post(f"{AT}/{question.pk}/answer", {"answer": None})
    assert (dismissed.json()["state"], dismissed.json()["answer"]) == ("answered", None)
    assert api.get(f"{AT}/nobody").status_code == 404


def test_most_urgent_comes_first(family: dict[str, Lieutenant], api: Api) -> None:
    now = timezone.now()
    minutes = {"ada": 5, "cyd": 12, "dan": 11}
    for name, waited in minutes.items():
        created = now - timedelta(minutes=waited)
        confirmation(family[name], text=name, created_at=created)
    listed = api.get(f"{AT}?state=open").json()["questions"]
    # Two agents wait below ada: 3 times 5 minutes.
    assert [(each["text"], each["waitingBelow"]) for each in listed] == [
        ("ada", 2),
        ("cyd", 0),
        ("dan", 0),
    ]


def test_list_is_filtered_and_paged(family: dict[str, Lieutenant], api: Api) -> None:
    for name in ("ada", "bea", "ada"):
        confirmation(family[name], text=name)
    services.answer(Question.objects.filter(text="bea").get().pk, True, actor="x")

    def texts(query: str) -> list[str]:
        return [each["text"] for each in api.get(f"{AT}?{query}").json()["questions"]]

    assert texts("lieutenant=ada") == texts(f"vmId={family['ada'].pk}") == ["ada", "ada"]
    assert texts(f"lieutenant={family['bea'].pk}") == texts("state=answered") == ["bea"]
    first = api.get(f"{AT}?limit=2").json()
    assert first["count"] == 2
    second = api.get(f"{AT}?limit=2&cursor={first['next']}").json()
    assert (second["count"], second["next"]) == (1, None)
    found = {each["id"] for each in first["questions"] + second["questions"]}
    assert len(found) == 3
    assert api.get(f"{AT}?cursor=x").status_code == 400
    assert api.get(f"{AT}?state=closed").status_code == 400


def test_default_counts_after_the_deadline(family: dict[str, Lieutenant]) -> None:
    by = as_(family["bea"])
    pk = ask(by, default="later", options=["now", "later"], deadlineSeconds=60).json()["id"]
    none = ask(by, deadlineSeconds=60).json()["id"]
    Question.objects.update(deadline=timezone.now())
    assert deadlines.decide_overdue() == 2
    facts = by.get(f"{AT}/{pk}").json()
    assert (facts["state"], facts["answer"]) == ("defaulted", "later")
    assert facts["note"] == "nobody answered in time"
    assert by.get(f"{AT}/{none}").json()["state"] == "expired"


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"text": " "}, "text is required"),
        ({"default": "later"}, "default: needs a deadline"),
        (
            {"default": "x", "options": ["y"], "deadlineSeconds": 5},
            "default: must be one of the options",
        ),
        ({"deadlineSeconds": 0}, "deadlineSeconds: must be a whole number from 1 to 2592000"),
        ({"choices": []}, "choices: unknown"),
    ],
)
def test_invalid_questions_are_refused(
    family: dict[str, Lieutenant], fields: Any, problem: str
) -> None:
    refused = ask(as_(family["bea"]), **fields)
    assert refused.status_code == 400
    assert refused.json()["error"].startswith(problem.split(":")[0])
    assert problem in refused.json()["error"] or "choices" in problem


def test_agent_has_a_limited_number_of_open_questions(family: dict[str, Lieutenant]) -> None:
    by = as_(family["bea"])
    ids = [ask(by).json()["id"] for _ in range(MAX_OPEN)]
    refused = ask(by)
    assert refused.status_code == 429
    assert refused.headers["Retry-After"]
    assert by.delete(f"{AT}/{ids[0]}").json()["state"] == "withdrawn"
    assert by.delete(f"{AT}/{ids[0]}").status_code == 200
    assert ask(by).status_code == 201


def test_dialog_cannot_be_withdrawn(family: dict[str, Lieutenant], api: Api) -> None:
    question = confirmation(family["bea"])
    assert api.delete(f"{AT}/{question.pk}").status_code == 409
    assert as_(family["cyd"]).delete(f"{AT}/{question.pk}").status_code == 403


def test_questions_of_a_destroyed_lieutenant_are_withdrawn(family: dict[str, Lieutenant]) -> None:
    ask(as_(family["bea"]))
    deadlines.withdraw_orphaned()
    assert Question.objects.get().is_open
    Lieutenant.objects.filter(name="bea").update(status="destroyed")
    deadlines.withdraw_orphaned()
    assert Question.objects.get().state == QuestionState.WITHDRAWN


def test_agent_on_a_vm_asks_without_being_a_lieutenant(api: Api) -> None:
    node = tree.create(NewNode("w1", "agent_vm", "vm-1"), by="tests")
    by = NodeApi(tokens.issue(node, made_by="tests"))
    facts = ask(by).json()
    assert (facts["vmId"], facts["lieutenant"]) == ("vm-1", None)
    assert api.post(f"{AT}/{facts['id']}/answer", {"answer": "yes"}).status_code == 200


def test_wait_is_left_to_the_edge(family: dict[str, Lieutenant], api: Api) -> None:
    by = as_(family["bea"])
    asked = by.post(f"{AT}?wait=5", {"text": "Deploy now?"})
    pk = asked.json()["id"]
    assert asked.headers["Reef-Wait"] == f"5 question {pk}"
    services.answer(pk, "yes", actor="bea")
    assert "Reef-Wait" not in by.get(f"{AT}/{pk}?wait=5").headers


def test_questions_that_were_decided_long_ago_are_deleted(
    family: dict[str, Lieutenant], api: Api
) -> None:
    long_ago = timezone.now() - timedelta(days=91)
    facts: dict[str, Any] = {"vm_id": family["bea"].pk, "kind": "ask", "source": "tool"}
    facts |= {"text": "?", "created_at": long_ago}
    decided: dict[str, Any] = {"state": "answered", "decided_at": long_ago}
    Question.objects.create(**facts, **decided)
    kept = {
        Question.objects.create(**facts).pk,
        Question.objects.create(**facts, state="answered", decided_at=timezone.now()).pk,
        # The journal of a living process may be read again.
        confirmation(family["bea"], is_awaited=False, **decided).pk,
    }
    ended = confirmation(family["cyd"], is_awaited=False, **decided)
    assert ended.process is not None
    ended.process.ended_at = long_ago
    ended.process.save()

    assert deadlines.prune() == 2
    assert set(Question.objects.values_list("pk", flat=True)) == kept


def test_many_askers_cost_as_many_queries_as_few(family: dict[str, Lieutenant]) -> None:
    expected = {family["ada"].pk: 2, family["bea"].pk: 1, family["cyd"].pk: 0}
    above = family["cyd"]
    for number in range(10):
        above = lieutenant(f"deep{number}", above.pk)
        expected = {key: count + 1 for key, count in expected.items()} | {above.pk: 0}
    expected[family["dan"].pk] = 0
    tree.remove(lieutenant("gone", family["dan"].pk).pk, by="tests")
    for vm_id in expected:
        Question.objects.create(vm_id=vm_id, kind="ask", source="tool", text="?")

    with CaptureQueriesContext(connection) as queries:
        found = listing.by_urgency(Question.objects.select_related("lieutenant"))
    assert len(queries) == 3
    assert {each.question.vm_id: each.waiting_below for each in found} == expected
