"""The queue of a lieutenant: its messages are changed, moved and withdrawn until they are sent."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta
from typing import Any
from unittest import mock

import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from lieutenants import membership, services
from lieutenants.messages import delivery
from lieutenants.messages.images import NewImage, load, store
from lieutenants.messages.outbox import Outbox
from lieutenants.models import Message, Process
from lieutenants.services import lookup, queueing
from lieutenants.sessions.session import Session
from lieutenants.states import MessageState, Mode, Status
from reef_site.common.eventlog.models import Event
from tests.conftest import Api, Fleet
from tests.lieutenants.rows import Told, enlist, page
from tests.waiting import until
from versconfig.screening import sources
from versconfig.screening.screen import Screen, Secret
from vmtree import tokens
from vmtree.models import Node

pytestmark = pytest.mark.django_db

PATH = "/lieutenant/lieutenants"
AT = timezone.now()


@pytest.fixture
def told() -> Told:
    return Told(enlist(status=Status.WORKING))


def message(told: Told, text: str, **fields: Any) -> Message:
    usual = {"mode": Mode.FOLLOW_UP, "mode_asked": Mode.PROMPT, "state": MessageState.QUEUED}
    return Message.objects.create(lieutenant=told.lieutenant, text=text, **{**usual, **fields})


def patch(api: Api, row: Message, **body: object) -> Any:
    return api.client.patch(
        f"{PATH}/ada/messages/{row.pk}", data=json.dumps(body), content_type="application/json"
    )


def order() -> list[str]:
    rows = Message.objects.filter(state=MessageState.QUEUED).in_queue_order()
    return list(rows.values_list("text", flat=True))


def test_queued_messages_are_moved_and_new_ones_come_last(api: Api, told: Told) -> None:
    rows = {text: message(told, text) for text in "abcd"}
    for moved, position, expected in (
        ("c", 1, "cabd"),
        ("c", 4, "abdc"),
        ("d", 2, "adbc"),
        ("a", 99, "dbca"),
    ):
        answer = patch(api, rows[moved], position=position)
        assert answer.status_code == 200, answer.content
        assert answer.json()["position"] == min(position, 4)
        assert order() == list(expected)
    message(told, "new")
    assert order() == [*"dbca", "new"]
    listed = api.get(f"{PATH}/ada/messages").json()["messages"]
    assert {each["text"]: each["position"] for each in listed} == {
        "d": 1,
        "b": 2,
        "c": 3,
        "a": 4,
        "new": 5,
    }


def test_requeued_messages_come_before_those_that_were_moved(api: Api, told: Told) -> None:
    steered = message(told, "steered", state=MessageState.ACCEPTED, mode=Mode.STEER)
    first, second = message(told, "first"), message(told, "second")
    assert patch(api, second, position=1).json()["position"] == 1
    delivery.requeue(told.lieutenant)
    assert order() == ["steered", "second", "first"]
    steered.refresh_from_db()
    assert (steered.place, first.place) == (-3, 0)


def test_text_is_changed_with_a_note_and_an_event(
    api: Api, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = message(told, "old", note="auto-queued")
    screen = Screen([Secret("KEY", "jihgfedcba-3210")])
    monkeypatch.setattr(sources, "for_node", lambda *_, **__: screen)
    for text in ("new", "newer jihgfedcba-3210"):
        changed = patch(api, row, text=text)
        assert changed.status_code == 200
    said = changed.json()
    assert said["text"] == "newer [KEY]"
    assert said["note"].startswith("changed by root token; auto-queued; a secret was covered")
    assert said["note"].count("changed by") == 1
    assert Event.objects.filter(kind="lieutenant.message_changed").count() == 2


def test_request_is_known_after_its_message_was_changed(api: Api, told: Told) -> None:
    key = {"Idempotency-Key": "one"}
    body = {"message": "old"}
    first = api.post(f"{PATH}/ada/send", body, **key).json()
    row = Message.objects.get()
    for text in ("new", "newer"):
        assert patch(api, row, text=text).status_code == 200
    again = api.post(f"{PATH}/ada/send", body, **key)
    assert (again.status_code, again.json()["messageId"]) == (200, first["messageId"])
    for other in ("new", "newer"):
        assert api.post(f"{PATH}/ada/send", {"message": other}, **key).status_code == 409
    assert order() == ["newer"]


def test_long_note_still_names_who_changed_the_text(api: Api, told: Told) -> None:
    # Another name begins with this one.
    row = message(told, "old", note=f"changed by root token 2; {'x' * 170}")
    note = patch(api, row, text="new").json()["note"]
    assert note.startswith("changed by root token; changed by root token 2; xxx")
    assert len(note) == 200


def test_change_adds_to_the_note_of_a_change_that_it_waited_for(told: Told) -> None:
    row = message(told, "old")
    found = lookup.find_message(told.lieutenant, row.pk)
    Message.objects.update(note="changed by bob")
    with mock.patch.object(queueing, "find_message", return_value=found):
        queueing.change("ada", row.pk, text="new", actor="ann")
    row.refresh_from_db()
    assert row.note == "changed by ann; changed by bob"


@pytest.mark.parametrize(
    ("body", "status", "sentence"),
    [
        ({}, 400, "body: must have text or position"),
        ({"text": " "}, 400, "text is required"),
        ({"text": "a\0"}, 400, "text: has characters that are no text"),
        ({"text": 7}, 400, "text: must be a string"),
        ({"position": 0}, 400, "position"),
        ({"position": "first"}, 400, "position"),
        ({"txt": "x"}, 400, "txt"),
    ],
)
def test_wrong_changes_are_refused(
    api: Api, told: Told, body: dict[str, Any], status: int, sentence: str
) -> None:
    row = message(told, "old")
    refused = patch(api, row, **body)
    assert refused.status_code == status
    assert sentence in refused.json()["error"]
    assert order() == ["old"]


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"evidence": delivery.SENDING}, "the agent has it"),
        ({"state": MessageState.ACCEPTED}, "the agent has it"),
        ({"state": MessageState.ACCEPTED, "taken_up_at": timezone.now()}, "has begun with it"),
        ({"state": MessageState.REJECTED, "evidence": {"note": "withdrawn by x"}}, "withdrawn"),
    ],
)
def test_message_that_left_the_queue_is_not_changed(
    api: Api, told: Told, fields: dict[str, Any], reason: str
) -> None:
    row, other = message(told, "sent", **fields), message(told, "other")
    for body in ({"text": "new"}, {"position": 1}, {"text": "new", "position": 1}):
        refused = patch(api, row, **body)
        assert refused.status_code == 409
        assert refused.json()["error"].startswith("message: cannot be changed, ")
        assert reason in refused.json()["error"]
    row.refresh_from_db()
    other.refresh_from_db()
    assert (row.text, row.place, other.place) == ("sent", 0, 0)


def test_outbox_sends_the_text_that_was_stored_last(
    api: Api, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A change between the sender's choice and its mark is sent; a later one is refused."""
    row = message(told, "old")
    Process.objects.update(ready_at=timezone.now())
    session = Session.open(Process.objects.get())
    outbox = Outbox()
    outbox.refresh({session.process.pk: session})
    mark, answers = delivery.mark_sending, []

    def change_first(pk: str) -> bool:
        answers.append(patch(api, row, text="new").status_code)
        marked = mark(pk)
        answers.append(patch(api, row, text="too late").status_code)
        return marked

    monkeypatch.setattr(delivery, "mark_sending", change_first)
    outbox._next_message(session, 0.0)
    outbox.close()
    (command,) = outbox._mailboxes[session.process.pk].waiting
    assert answers == [200, 409]
    assert command.line["message"] == "new"


def test_agent_at_work_is_not_looked_up_again_for_what_waits_for_its_turn(told: Told) -> None:
    message(told, "later")
    Process.objects.update(ready_at=timezone.now())
    session = Session.open(Process.objects.get())
    session.state = replace(session.state, running=True, settled=False)
    assert session.state.accepts_steering
    assert not session.state.accepts_message
    sessions = {session.process.pk: session}
    outbox = Outbox()
    outbox.refresh(sessions)
    with CaptureQueriesContext(connection) as passes:
        for clock in range(10):
            outbox.send(sessions, float(clock))
    assert len(passes) == 0

    steering = message(told, "now", mode=Mode.STEER)
    outbox.refresh(sessions)
    outbox._next_message(session, 10.0)
    outbox.close()
    mailbox = outbox._mailboxes[session.process.pk]
    assert [command.id for command in mailbox.waiting] == [steering.pk]
    delivery.mark_delivered(steering.pk, timezone.now())
    outbox._next_message(session, 11.0)
    with CaptureQueriesContext(connection) as passes:
        outbox._next_message(session, 12.0)
    assert len(passes) == 0


def test_change_needs_the_right_to_command(api: Api, told: Told) -> None:
    membership.register(told.lieutenant, actor="tests")
    row = message(told, "old")
    other = Told(enlist("bob"))
    membership.register(other.lieutenant, actor="tests")
    token = tokens.issue(Node.objects.get(vm_id=other.lieutenant.pk), made_by="tests")
    node = Client(headers={"authorization": f"Bearer {token}"})
    path, json_type = f"{PATH}/ada/messages/{row.pk}", "application/json"
    assert node.patch(path, data={"text": "x"}, content_type=json_type).status_code == 403
    assert (
        api.client.patch(
            f"{PATH}/bob/messages/{row.pk}", data={"text": "x"}, content_type=json_type
        ).status_code
        == 404
    )
    assert order() == ["old"]


# -- sending again ---------------------------------------------------------------------------------


def again(api: Api, row: Message) -> Any:
    return api.post(f"{PATH}/ada/messages/{row.pk}/send-again")


def test_withdrawn_message_is_sent_again_once_with_text_mode_and_images(
    api: Api, told: Told
) -> None:
    images = [NewImage("image/png", b"\x89PNG\r\n\x1a\n" + bytes([each])) for each in b"ab"]
    row = message(told, "look <b>", mode_asked=Mode.FOLLOW_UP, actor="ann")
    store(row, images)
    services.withdraw("ada", row.pk, actor="ann")

    first, repeated = again(api, row), again(api, row)
    assert first.status_code == 200, first.content
    assert repeated.json()["messageId"] == first.json()["messageId"]
    sent = Message.objects.get(state=MessageState.QUEUED)
    assert first.json()["messageId"] == sent.pk
    assert (sent.text, sent.mode_asked, sent.actor) == ("look <b>", Mode.FOLLOW_UP, "root token")
    assert load(sent.pk) == images
    row.refresh_from_db()
    assert row.state == MessageState.REJECTED

    # The new one can be changed, withdrawn and sent again, too.
    assert patch(api, sent, text="other").status_code == 200
    assert again(api, row).json()["messageId"] == sent.pk
    services.withdraw("ada", sent.pk, actor="ann")
    assert again(api, sent).status_code == 200
    assert order() == ["other"]


def test_messages_that_no_agent_got_can_be_sent_again(api: Api, told: Told) -> None:
    now, lieutenant = timezone.now(), told.lieutenant
    rows = [message(told, "refused"), message(told, "returned", state=MessageState.ACCEPTED)]
    delivery.decide(rows[0].pk, accepted=False, evidence={"error": "no model"}, at=now)
    delivery.withdraw_accepted(lieutenant, ["returned"], now)
    rows.append(message(told, "queued"))
    delivery.withdraw_queued(lieutenant, "withdrawn by an abort", now)
    for row in rows:
        assert again(api, row).status_code == 200
    assert order() == ["refused", "returned", "queued"]


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({}, "it still waits"),
        ({"state": MessageState.DELIVERED}, "it still waits"),
        ({"state": MessageState.ACCEPTED, "taken_up_at": AT}, "the agent has begun with it"),
    ],
)
def test_message_that_waits_or_was_begun_is_not_sent_again(
    api: Api, told: Told, fields: dict[str, Any], reason: str
) -> None:
    row = message(told, "x", **fields)
    refused = again(api, row)
    assert refused.status_code == 409
    assert reason in refused.json()["error"]
    assert api.post(f"{PATH}/ada/messages/nobody/send-again").status_code == 404
    assert Message.objects.count() == 1


def test_sending_again_needs_the_right_to_send_and_an_agent_that_takes_it(
    api: Api, told: Told
) -> None:
    membership.register(told.lieutenant, actor="tests")
    row = message(told, "old")
    services.withdraw("ada", row.pk, actor="ann")
    other = Told(enlist("bob"))
    membership.register(other.lieutenant, actor="tests")
    token = tokens.issue(Node.objects.get(vm_id=other.lieutenant.pk), made_by="tests")
    node = Client(headers={"authorization": f"Bearer {token}"})
    assert node.post(f"{PATH}/ada/messages/{row.pk}/send-again").status_code == 403
    told.lieutenant.move(Status.PAUSED, reason="tests", actor="tests")
    refused = again(api, row)
    assert (refused.status_code, "is paused" in refused.json()["error"]) == (400, True)
    assert Message.objects.count() == 1


def test_page_sends_again_what_was_withdrawn_lately(operator: Client, told: Told) -> None:
    rows = [message(told, text) for text in ("first <b>", "long ago")]
    for row in rows:
        services.withdraw("ada", row.pk, actor="ann")
    Message.objects.filter(pk=rows[1].pk).update(decided_at=AT - timedelta(days=2))
    html = page(operator, "/lieutenants/ada/")
    assert html.count('id="again-') == 1
    assert "Send again: first &lt;b&gt;" in html
    path = f"/lieutenants/ada/messages/{rows[0].pk}/again"
    assert operator.get(path).status_code == 405
    shown = operator.post(path, headers={"reef-script": "1"})
    assert shown.status_code == 200
    assert 'id="again-' not in shown.content.decode()
    assert order() == ["first <b>"]
    assert operator.post("/lieutenants/ada/messages/nobody/again").status_code == 404


def test_page_changes_and_moves_messages(operator: Client, told: Told) -> None:
    first, second = message(told, "first <b>"), message(told, "second")
    html = page(operator, "/lieutenants/ada/")
    path = f"/lieutenants/ada/messages/{second.pk}/change"
    assert html.count(f'action="{path}"') == 2
    assert operator.post(path, {"position": "1"}).status_code == 302
    assert order() == ["second", "first <b>"]
    shown = operator.post(path, {"text": "two\r\nlines"}, headers={"reef-script": "1"})
    assert "two\nlines" in shown.content.decode()
    for form, sentence in (
        ({"position": "x"}, "whole number"),
        ({}, "must have"),
        ({"text": ""}, "required"),
    ):
        refused = operator.post(path, form, headers={"reef-script": "1"})
        assert refused.status_code == 400
        assert sentence in refused.content.decode()
    assert delivery.mark_sending(first.pk)
    html = page(operator, "/lieutenants/ada/")
    assert f'id="up-{first.pk}"' not in html
    assert f'id="up-{second.pk}"' in html


def test_read_only_account_is_offered_and_allowed_nothing(client: Client, told: Told) -> None:
    client.force_login(User.objects.create_user("viola"))
    row = message(told, "old")
    path = f"/lieutenants/ada/messages/{row.pk}/change"
    assert path not in page(client, "/lieutenants/ada/")
    assert client.post(path, {"text": "new"}).status_code == 403
    assert order() == ["old"]


def test_follow_ups_wait_in_reef_and_are_sent_in_the_order_of_the_queue(fleet: Fleet) -> None:
    fleet.create("ada")
    fleet.send("ada", "SLOW 2 go")
    until(lambda: fleet.get("ada")["lastOutput"])
    rows = {text: fleet.send("ada", text) for text in ("one", "two", "three")}
    assert order() == ["one", "two", "three"]
    assert patch(fleet.api, rows["three"], position=1).status_code == 200
    assert patch(fleet.api, rows["one"], text="last").status_code == 200
    assert patch(fleet.api, rows["one"], position=3).status_code == 200
    fleet.wait("ada", "idle", 20)
    assert fleet.texts("ada", "user") == ["SLOW 2 go", "three", "two", "last"]
    assert not Message.objects.pending().exists()
