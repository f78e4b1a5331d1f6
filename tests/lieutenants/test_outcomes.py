"""Outcomes, withdrawal and pagination of messages, and idempotent creation of lieutenants."""

from __future__ import annotations

from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from lieutenants import membership
from lieutenants.conditions import Conditions
from lieutenants.exceptions import Unreachable
from lieutenants.messages import delivery, outcomes
from lieutenants.messages.outbox import Outbox
from lieutenants.models import Answer, Entry, Lieutenant, Message, Process
from lieutenants.sessions.session import Session
from lieutenants.states import MessageState, Mode, Outcome, Status
from lieutenants.supervision.transports.local import LocalTransport
from reef_site.common.models import OutsideCall
from tests.conftest import STANDIN, Api
from tests.dispatching import drop_tasks
from tests.lieutenants.rows import Told, enlist, page, use
from tests.waiting import until
from vmtree import tokens
from vmtree.models import Node

pytestmark = pytest.mark.django_db
PATH = "/lieutenant/lieutenants"


@pytest.fixture(autouse=True)
def _quiet(settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    settings.PI_PATH = str(STANDIN)
    drop_tasks(monkeypatch, "lieutenants.settle")


@pytest.fixture
def told() -> Told:
    return Told(enlist("ada"))


def message(told: Told, text: str = "x", mode: str = Mode.PROMPT, **fields: Any) -> Message:
    fields = {"state": MessageState.ACCEPTED, "taken_up_at": timezone.now(), **fields}
    return Message.objects.create(
        lieutenant=told.lieutenant, text=text, mode=mode, mode_asked=mode, **fields
    )


def end(answer: Answer, outcome: str, error: str = "") -> None:
    Answer.objects.filter(pk=answer.pk).update(outcome=outcome, error=error)


def result(one: Message) -> tuple[str, str | None, str]:
    found = outcomes.result_of(one)
    said = found.answer()
    return found.outcome.value, (said.tail(1000) or None) if said else None, found.error


@pytest.mark.parametrize(
    ("ended", "outcome"),
    [
        (Outcome.OPEN, "pending"),
        (Outcome.COMPLETED, "completed"),
        (Outcome.ABORTED, "aborted"),
        (Outcome.ERROR, "error"),
        (Outcome.INTERRUPTED, "interrupted"),
    ],
)
def test_message_has_the_outcome_of_its_turn(told: Told, ended: Outcome, outcome: str) -> None:
    one, answer = message(told), told.open_answer()
    told.entry(Entry.Kind.USER, "x", message=one)
    told.entry(Entry.Kind.TEXT, "first")
    told.call("c", command="ls")
    told.entry(Entry.Kind.TEXT, "second")
    end(answer, ended, "why" if ended == Outcome.ERROR else "")

    assert result(one) == (outcome, "first\n\nsecond", "why" if outcome == "error" else "")


def test_follow_up_ends_the_previous_part_and_steer_does_not(told: Told) -> None:
    first, steer = message(told, "first"), message(told, "steer", Mode.STEER)
    then = message(told, "then", Mode.FOLLOW_UP)
    answer = told.open_answer()
    for one, text in ((first, "one"), (steer, "two"), (then, "three")):
        told.entry(Entry.Kind.USER, one.text, message=one)
        told.entry(Entry.Kind.TEXT, text)

    assert result(first) == ("completed", "one\n\ntwo", "")
    assert result(steer) == ("completed", "two", "")
    assert result(then) == ("pending", "three", "")
    end(answer, Outcome.ABORTED)
    assert result(then)[0] == "aborted"
    assert result(first)[0] == "completed"


def test_command_without_a_turn_is_completed_without_an_answer(told: Told) -> None:
    assert result(message(told)) == ("completed", None, "")
    assert result(message(told, taken_up_at=None)) == ("pending", None, "")
    shown = message(told)
    told.entry(Entry.Kind.USER, "/note", message=shown, data={"command": "handled"})
    assert result(shown) == ("completed", None, "")
    assert outcomes.is_over(shown.pk)


def test_command_beside_a_turn_does_not_end_its_message(told: Told) -> None:
    first, command = message(told), message(told)
    told.open_answer()
    told.entry(Entry.Kind.USER, "work", message=first)
    told.entry(Entry.Kind.TEXT, "half")
    told.entry(Entry.Kind.USER, "/note", message=command, data={"command": "handled"})
    assert result(first) == ("pending", "half", "")
    assert result(command)[0] == "completed"


def test_outcomes_do_not_load_answers(told: Told, django_assert_max_num_queries: Any) -> None:
    one = message(told)
    answer = told.open_answer()
    told.entry(Entry.Kind.USER, "work", message=one)
    end(answer, Outcome.COMPLETED)
    with django_assert_max_num_queries(10) as queries:
        assert outcomes.is_over(one.pk)
    assert not any('"lieutenants_answer"."text"' in each["sql"] for each in queries)


def test_refused_message_has_a_reason(told: Told) -> None:
    refused = {"success": False, "error": "no such command"}
    one = message(told, state=MessageState.REJECTED, evidence=refused)
    assert result(one) == ("error", None, "no such command")


def test_message_of_an_idle_lieutenant_is_not_waited_for(told: Told) -> None:
    one = message(told, state=MessageState.QUEUED, taken_up_at=None)
    assert not outcomes.is_over(one.pk)
    told.process.ended_at = timezone.now()
    told.process.save()
    for status, over in (("working", False), ("paused", True), ("error", True)):
        Lieutenant.objects.update(status=status)
        assert outcomes.is_over(one.pk) is over, status
    Lieutenant.objects.update(status="error", restart_at=timezone.now())
    assert not outcomes.is_over(one.pk)


# -- withdrawing -------------------------------------------------------------------------------


def test_queued_message_is_withdrawn(api: Api, told: Told) -> None:
    one = message(told, state=MessageState.QUEUED, taken_up_at=None)
    for _ in range(2):
        answer = api.delete(f"{PATH}/ada/messages/{one.pk}")
        assert answer.status_code == 200
        said = answer.json()
        assert (said["state"], said["outcome"]) == ("rejected", "aborted")
        assert said["evidence"] == {"note": "withdrawn by root token"}
    listed = api.get(f"{PATH}/ada/messages").json()["messages"]
    assert [(each["state"], each["error"]) for each in listed] == [
        ("rejected", "withdrawn by root token")
    ]


@pytest.mark.parametrize(
    ("state", "taken", "says"),
    [
        (MessageState.DELIVERED, False, "the agent has it"),
        (MessageState.ACCEPTED, False, "the agent has it"),
        (MessageState.ACCEPTED, True, "the agent has begun with it"),
        (MessageState.REJECTED, False, "the agent has refused it"),
    ],
)
def test_late_withdrawal_is_refused_with_a_reason(
    api: Api, told: Told, state: str, says: str, *, taken: bool
) -> None:
    one = message(told, state=state, taken_up_at=timezone.now() if taken else None)
    refused = api.delete(f"{PATH}/ada/messages/{one.pk}")
    assert refused.status_code == 409
    assert says in refused.json()["error"]


def test_message_being_sent_is_not_withdrawn(api: Api, told: Told) -> None:
    one = message(told, state=MessageState.QUEUED, taken_up_at=None)
    assert delivery.mark_sending(one.pk)
    assert api.delete(f"{PATH}/ada/messages/{one.pk}").status_code == 409
    # The agent ended before it got the message, which is queued again.
    delivery.requeue(told.lieutenant)
    assert api.delete(f"{PATH}/ada/messages/{one.pk}").status_code == 200
    assert not delivery.mark_sending(one.pk)


@pytest.mark.parametrize(("reached", "status"), [(False, 200), (True, 409)])
def test_message_without_a_connection_is_withdrawn(
    api: Api, told: Told, monkeypatch: pytest.MonkeyPatch, *, reached: bool, status: int
) -> None:
    """A message that the keeper may have read before it stopped responding is not withdrawn."""

    def fall_silent(*_: object) -> None:
        raise Unreachable("The supervisor does not answer")

    if reached:
        monkeypatch.setattr(LocalTransport, "send", fall_silent)
    one = message(told, state=MessageState.QUEUED, taken_up_at=None)
    Process.objects.update(ready_at=timezone.now())
    session = Session.open(Process.objects.get())
    sessions = {session.process.pk: session}
    outbox = Outbox()
    outbox.refresh(sessions)
    try:
        for moment in (0.0, 10.0):
            outbox.send(sessions, moment)
            assert api.delete(f"{PATH}/ada/messages/{one.pk}").status_code == 409
            until(lambda: not outbox._mailboxes[session.process.pk].sending)
            outbox.send(sessions, moment + 1.0)
    finally:
        outbox.close()
    assert session.unsent_since is not None
    assert api.delete(f"{PATH}/ada/messages/{one.pk}").status_code == status


def test_withdrawal_needs_the_right_to_command(api: Api, told: Told) -> None:
    membership.register(told.lieutenant, actor="tests")
    one = message(told, state=MessageState.QUEUED, taken_up_at=None)
    other = Told(enlist("bob"))
    membership.register(other.lieutenant, actor="tests")
    token = tokens.issue(Node.objects.get(vm_id=other.lieutenant.pk), made_by="tests")
    node = Client(headers={"authorization": f"Bearer {token}"})

    assert node.delete(f"{PATH}/ada/messages/{one.pk}").status_code == 403
    assert api.delete(f"{PATH}/bob/messages/{one.pk}").status_code == 404
    one.refresh_from_db()
    assert one.state == MessageState.QUEUED


def test_page_button_withdraws_a_message(operator: Client, told: Told) -> None:
    one = message(told, "waits", state=MessageState.QUEUED, taken_up_at=None)
    path = f"/lieutenants/ada/messages/{one.pk}/withdraw"
    assert f'action="{path}"' in page(operator, "/lieutenants/ada/")

    shown = operator.post(path, headers={"reef-script": "1"}).content.decode()

    assert path not in shown
    assert ">withdrawn<" in shown
    one.refresh_from_db()
    assert one.evidence == {"note": "withdrawn by admin"}
    delivered = message(told, state=MessageState.DELIVERED, taken_up_at=None)
    late = operator.post(f"/lieutenants/ada/messages/{delivered.pk}/withdraw")
    assert late.status_code == 409


def test_messages_are_paginated(api: Api, told: Told) -> None:
    at = timezone.now()
    for number in range(7):
        message(told, f"m{number}", created_at=at)
    found, cursor = [], ""
    while True:
        page = api.get(f"{PATH}/ada/messages?limit=3{cursor}").json()
        found += [each["text"] for each in page["messages"]]
        if page["next"] is None:
            break
        cursor = f"&cursor={page['next']}"
    assert sorted(found) == [f"m{number}" for number in range(7)]
    assert api.get(f"{PATH}/ada/messages?cursor=nobody").status_code == 400


# -- making one only once ----------------------------------------------------------------------


def make(api: Api, key: str, **fields: Any) -> Any:
    body = {"name": "once", "role": "tests", **fields}
    return api.post(PATH, body, **{"idempotency-key": key})


def test_list_of_messages_needs_a_constant_number_of_queries(api: Api, told: Told) -> None:
    def queries(count: int) -> int:
        with CaptureQueriesContext(connection) as seen:
            listed = api.get(f"{PATH}/ada/messages").json()["messages"]
        calls = [(each["usage"]["calls"], each["usage"]["input"]) for each in listed]
        assert calls == [(number, 10 * number) for number in reversed(range(count))]
        return len(seen)

    def add(number: int) -> None:
        one, _ = message(told, f"t{number}"), told.open_answer()
        told.entry(Entry.Kind.USER, one.text, message=one)
        for _ in range(number):
            use(told.lieutenant, message=one, input=10)

    add(0)
    add(1)
    few = queries(2)
    for number in range(2, 7):
        add(number)
    assert queries(7) == few
    newest = api.get(f"{PATH}/ada/messages").json()["messages"][0]
    assert api.get(f"{PATH}/ada/messages/{newest['id']}").json()["usage"] == newest["usage"]


def test_repeated_creation_returns_the_same_lieutenant(api: Api) -> None:
    first, again = make(api, "k1"), make(api, "k1")

    assert (first.status_code, again.status_code) == (201, 200)
    assert again.json()["id"] == first.json()["id"]
    assert Lieutenant.objects.count() == 1
    other = make(api, "k1", role="something else")
    assert other.status_code == 409
    assert other.json()["error"] == "Idempotency-Key: was used for another lieutenant"
    assert make(api, "k2").json()["error"].startswith("Lieutenant 'once' already exists")
    assert make(api, "").status_code == 409


def test_repeated_creation_finds_a_destroyed_lieutenant(api: Api) -> None:
    first = make(api, "k1").json()
    api.delete(f"{PATH}/once")
    again = make(api, "k1")
    assert (again.status_code, again.json()["id"]) == (200, first["id"])
    assert again.json()["status"] == "destroyed"


def test_idempotency_key_is_scoped_to_its_caller(api: Api) -> None:
    parent = enlist("parent")
    membership.register(parent, actor="tests")
    token = tokens.issue(Node.objects.get(vm_id=parent.pk), made_by="tests")
    node = Client(headers={"authorization": f"Bearer {token}", "idempotency-key": "k1"})

    assert make(api, "k1").status_code == 201
    answer = node.post(PATH, {"name": "below", "role": "tests"}, content_type="application/json")
    assert answer.status_code == 201, answer.content


def test_too_long_key_is_refused(api: Api) -> None:
    assert make(api, "k" * 201).status_code == 400
    assert not Lieutenant.objects.exists()


def test_retry_after_is_set_while_the_agent_is_installed(
    api: Api, settings: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    settings.PI_PATH, settings.AGENT_INSTALL_DIR = "", tmp_path
    note = "It is being installed right now; this takes a minute."
    (tmp_path / "problem.txt").write_text(note)
    refused = make(api, "")
    assert (refused.status_code, refused["Retry-After"]) == (503, "10")
    assert note in refused.json()["error"]


def test_wait_for_many_messages_needs_few_queries(told: Told) -> None:
    answer = told.open_answer()
    many = [message(told, f"m{number}") for number in range(20)]
    for one in many:
        told.entry(Entry.Kind.USER, one.text, message=one)
    end(answer, Outcome.COMPLETED)
    waiting = message(told, taken_up_at=None, state=MessageState.QUEUED)
    Lieutenant.objects.filter(pk=told.lieutenant.pk).update(status=Status.WORKING)
    conditions = Conditions(30, messages=[*(one.pk for one in many), waiting.pk])
    with CaptureQueriesContext(
        connection,
    ) as queries:
        found = {each.name: (each.state, each.is_met) for each in conditions.findings()}
    assert len(queries) <= 10
    assert found.pop(f"message {waiting.pk}") == ("pending", False)
    assert set(found.values()) == {("completed", True)}
    assert len(found) == 20


def test_wait_for_many_calls_needs_one_query() -> None:
    now = timezone.now()
    for number in range(20):
        OutsideCall.objects.create(
            id=f"c{number}", kind="k", made_by="x", limit_seconds=1, made_at=now, sent_at=now
        )
    with CaptureQueriesContext(connection) as queries:
        found = list(Conditions(30, calls=[f"c{number}" for number in range(21)]).findings())
    assert len(queries) <= 5
    assert [each.is_met for each in found] == [False] * 20 + [True]
