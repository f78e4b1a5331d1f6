"""Subscribers: at least once, in order, with a log; a bad receiver holds up nobody else."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import hmac
import json
import smtplib
import socket
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from http.server import BaseHTTPRequestHandler
from typing import Any

import pytest
from django.core import mail
from django.core.mail import EmailMessage
from django.db import connection
from django.test import Client

from reef_site.activity.models import Delivery, Subscriber
from reef_site.activity.subscribers import delivery, distribution
from reef_site.common import clock, retention, webhooks
from reef_site.common.eventlog import recording
from reef_site.common.eventlog.models import Event
from tests.conftest import Api
from tests.dispatching import intercept_tasks
from tests.fleets import database, grow
from tests.waiting import PATIENCE, until
from tests.webhooks import Receiver, status
from versconfig.screening import sources
from vmtree import tokens
from vmtree.models import Node

__all__ = ["database"]
pytestmark = pytest.mark.django_db(transaction=True)
PATH = "/events/subscribers"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.close()


@pytest.fixture(autouse=True)
def sent(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, float]]:
    """Return names and countdowns of the tasks that were sent; no worker runs them."""
    found: list[tuple[str, float]] = []
    intercept_tasks(
        monkeypatch, "activity.", lambda task, _args, countdown: found.append((task, countdown))
    )
    monkeypatch.setattr(distribution, "_last_dispatch", -distribution.COLLECT_SECONDS)
    return found


def subscribe(api: Api, url: str, **fields: object) -> dict[str, Any]:
    body = {"name": "hook", "channel": "webhook", "url": url, **fields}
    answer = api.post(PATH, body)
    assert answer.status_code == 201, answer.content
    made: dict[str, Any] = answer.json()
    return made


def record(*subjects: str, kind: str = "vm.late", **fields: Any) -> None:
    for subject in subjects:
        recording.record(kind, subject, actor="tests", **fields)


def work() -> None:
    """Distribute and deliver what is due, as the workers do."""
    distribution.distribute()
    for pk in Subscriber.objects.values_list("pk", flat=True):
        delivery.run(pk)


def let_waits_pass() -> None:
    past = clock.now() - timedelta(seconds=1)
    Delivery.objects.update(due_at=past)
    Subscriber.objects.exclude(retry_at=None).update(retry_at=past)


def bodies(receiver: Receiver) -> list[dict[str, Any]]:
    return [json.loads(body) for _, body in receiver.calls]


def subjects(receiver: Receiver) -> list[str]:
    return [body["subject"] for body in bodies(receiver)]


def log_of(api: Api, made: dict[str, Any], query: str = "") -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = api.get(f"{PATH}/{made['id']}/deliveries?{query}").json()[
        "deliveries"
    ]
    return found


# -- delivery ------------------------------------------------------------------------------------


def test_event_is_delivered_signed_and_logged(api: Api, receiver: Receiver) -> None:
    record("before")
    made = subscribe(api, receiver.url)
    record("vm-7", detail={"reason": "quiet"})
    receiver.answers = [status(200, b"thanks")]
    work()
    work()

    [(headers, body)] = receiver.calls
    event = Event.objects.get(subject="vm-7")
    assert json.loads(body) == api.get("/events?subject=vm-7").json()["events"][0]
    assert headers["Reef-Event"] == str(event.pk)
    stamp, signature = headers["Reef-Signature"].split(",")
    signed = stamp.removeprefix("t=").encode() + b"." + body
    expected = hmac.new(made["secret"].encode(), signed, hashlib.sha256).hexdigest()
    assert signature == f"v1={expected}"
    [entry] = log_of(api, made)
    assert (entry["state"], entry["attempts"], entry["event"]) == ("delivered", 1, event.pk)
    [attempt] = entry["log"]
    assert (attempt["code"], attempt["answer"], attempt["problem"]) == (200, "thanks", "")
    assert headers["Reef-Delivery"] == str(entry["id"])


def test_only_wanted_events_are_delivered(database: str, api: Api, receiver: Receiver) -> None:
    grow()
    subscribe(api, receiver.url, kinds=["vm", "lieutenant.error"], subtree="left")
    record("left", "right", "leaf")
    record("leaf", kind="lieutenant.idle")
    record("leaf2", kind="lieutenant.error")
    work()

    assert subjects(receiver) == ["left", "leaf", "leaf2"]


def test_secrets_of_details_are_covered(api: Api, receiver: Receiver) -> None:
    secret = "sk-ant-subscriber-tests-0123456789"
    api.client.put(
        "/vers-config/ANTHROPIC_API_KEY", {"value": secret}, content_type="application/json"
    )
    sources.recheck()
    subscribe(api, receiver.url, kinds=["vm"])
    record("vm", detail={"reason": f"key {secret} is wrong"})
    work()

    [(_, body)] = receiver.calls
    assert secret not in body.decode()
    assert b"is wrong" in body


def test_failures_are_retried_with_back_off_and_keep_their_headers(
    api: Api, receiver: Receiver, sent: list[tuple[str, float]]
) -> None:
    made = subscribe(api, receiver.url)
    record("vm")
    receiver.answers = [status(500, b"oh no"), status(302, Location="/elsewhere"), status(404)]
    pauses = []
    for _ in range(4):
        sent.clear()
        work()
        pauses += [pause for task, pause in sent if task == "activity.deliver" and pause]
        # Nothing is tried before the pause is over.
        delivery.run(made["id"])
        let_waits_pass()

    assert pauses == [10.0, 30.0, 90.0]
    assert len(receiver.calls) == 4
    assert len({headers["Reef-Delivery"] for headers, _ in receiver.calls}) == 1
    [entry] = log_of(api, made)
    assert entry["state"] == "delivered"
    assert [attempt["problem"] for attempt in entry["log"]] == [
        *("answered 500", "answered 302", "answered 404", ""),
    ]
    assert entry["log"][0]["answer"] == "oh no"
    assert api.get(f"{PATH}/{made['id']}").json()["failures"] == 0


def test_unreachable_receiver_is_logged(api: Api, receiver: Receiver) -> None:
    made = subscribe(api, receiver.url)
    receiver.close()
    record("vm")
    work()

    [entry] = log_of(api, made)
    assert entry["state"] == "waiting"
    assert entry["log"][0]["code"] is None
    assert entry["log"][0]["problem"].startswith("no answer: ConnectError")
    shown = api.get(f"{PATH}/{made['id']}").json()
    assert shown["failures"] == 1
    assert shown["retryAt"] > clock.format_timestamp(clock.now())


@pytest.mark.parametrize("how", ["hangs", "drips"])
def test_receiver_that_never_finishes_is_given_up(
    api: Api, receiver: Receiver, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """A byte now and then does not extend the limit, and nobody else waits for it."""
    monkeypatch.setattr(webhooks, "LIMIT_SECONDS", 0.5)
    over = threading.Event()

    def answer(handler: BaseHTTPRequestHandler) -> None:
        if how == "drips":
            handler.send_response(200)
            handler.send_header("Content-Length", "100000")
            handler.end_headers()
        while not over.wait(0.05):
            if how == "drips":
                handler.wfile.write(b"x")
                handler.wfile.flush()

    good = Receiver()
    try:
        made = subscribe(api, receiver.url)
        subscribe(api, good.url, name="good")
        receiver.answers = [answer]
        record("vm")
        distribution.distribute()
        for pk in Subscriber.objects.values_list("pk", flat=True):
            began = time.monotonic()
            delivery.begin(pk)
            # The call is made in a thread: the task itself has nothing to wait for.
            assert time.monotonic() - began < webhooks.LIMIT_SECONDS * PATIENCE
        until(lambda: good.calls)
        until(lambda: log_of(api, made)[0]["log"])
    finally:
        over.set()
        good.close()

    [attempt] = log_of(api, made)[0]["log"]
    assert attempt["problem"] == "no answer within 0 s"
    until(lambda: not Subscriber.objects.exclude(leased_until=None).exists())


def test_late_answer_within_the_limit_counts(api: Api, receiver: Receiver) -> None:
    asked, may_answer = threading.Event(), threading.Event()

    def answer(handler: BaseHTTPRequestHandler) -> None:
        asked.set()
        may_answer.wait(10)
        status(204)(handler)

    made = subscribe(api, receiver.url)
    receiver.answers = [answer]
    record("vm")
    distribution.distribute()
    delivery.begin(made["id"])
    assert asked.wait(10)
    # Meanwhile no other worker delivers the same.
    delivery.run(made["id"])
    may_answer.set()

    until(lambda: log_of(api, made, "state=delivered"))
    assert len(receiver.calls) == 1


def test_bad_event_does_not_hold_back_the_next_ones(api: Api, receiver: Receiver) -> None:
    subscribe(api, receiver.url)
    record("bad", "good")
    receiver.answers = [status(500)]
    work()
    Subscriber.objects.update(retry_at=None)
    work()
    let_waits_pass()
    work()

    assert subjects(receiver) == ["bad", "good", "bad"]


def test_it_gives_up_after_a_day(api: Api, receiver: Receiver) -> None:
    made = subscribe(api, receiver.url)
    record("vm")
    receiver.answers = [status(500)] * 20
    for _ in range(delivery.MIN_ATTEMPTS):
        work()
        let_waits_pass()
    assert log_of(api, made)[0]["state"] == "waiting"
    Delivery.objects.update(since=clock.now() - timedelta(days=2))
    work()

    assert log_of(api, made)[0]["state"] == "failed"
    assert len(receiver.calls) == delivery.MIN_ATTEMPTS + 1


def test_event_that_retention_has_deleted_fails(api: Api, receiver: Receiver) -> None:
    made = subscribe(api, receiver.url)
    record("old", "new")
    distribution.distribute()
    Event.objects.filter(subject="old").delete()
    work()

    assert subjects(receiver) == ["new"]
    newest, oldest = log_of(api, made)
    assert (newest["state"], oldest["state"]) == ("delivered", "failed")


def test_two_distributors_make_one_delivery(database: str, api: Api, receiver: Receiver) -> None:
    made = subscribe(api, receiver.url)
    record("vm")
    stale = Subscriber.objects.get()
    distribution.distribute()
    # Another worker read the row before.
    assert not distribution._advance(stale, Event.objects.latest("pk").pk)
    distribution.distribute()

    assert len(log_of(api, made)) == 1


def test_many_events_are_distributed_in_batches(
    api: Api, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distribution, "BATCH_SIZE", 3)
    subscribe(api, receiver.url, kinds=["vm"])
    record(*(f"vm-{number}" for number in range(7)))
    record("x", kind="tree.created")
    work()

    assert subjects(receiver) == [f"vm-{number}" for number in range(7)]


def test_new_events_are_distributed_soon(
    api: Api, receiver: Receiver, sent: list[tuple[str, float]]
) -> None:
    record("nobody listens")
    assert sent == []
    distribution._last_dispatch = -distribution.COLLECT_SECONDS
    subscribe(api, receiver.url)
    record("a", "b")

    assert sent == [("activity.distribute", distribution.COLLECT_SECONDS)]


def test_all_old_deliveries_are_deleted_at_once(
    api: Api, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "_FIRST_SIZE", 2)
    subscribe(api, receiver.url)
    record(*(f"s{number}" for number in range(5)))
    distribution.distribute()
    Delivery.objects.update(state="delivered", ended_at=clock.now() - timedelta(days=15))

    assert distribution.prune() == 5


def test_deleted_events_and_deliveries(api: Api, receiver: Receiver) -> None:
    made = subscribe(api, receiver.url)
    record("old", "waits")
    distribution.distribute()
    old = clock.now() - timedelta(days=15)
    numbers = dict(Event.objects.values_list("subject", "pk"))
    done = Delivery.objects.filter(event_number=numbers["old"])
    done.update(state="delivered", ended_at=old, since=old)
    Delivery.objects.filter(event_number=numbers["waits"]).update(since=old)

    assert distribution.prune() == 1
    assert [each["event"] for each in log_of(api, made)] == [numbers["waits"]]


# -- pause, test, replay -------------------------------------------------------------------------


def test_events_wait_for_a_paused_subscriber(api: Api, receiver: Receiver) -> None:
    made = subscribe(api, receiver.url)
    path = f"{PATH}/{made['id']}"
    answer = api.client.patch(path, {"active": False}, content_type="application/json")
    assert answer.json()["active"] is False
    record("while paused")
    work()
    assert receiver.calls == []
    assert api.post(f"{path}/test").status_code == 409
    api.client.patch(path, {"active": True}, content_type="application/json")
    work()

    assert subjects(receiver) == ["while paused"]


def test_test_message(api: Api, receiver: Receiver) -> None:
    made = subscribe(api, receiver.url, kinds=["nothing"])
    answer = api.post(f"{PATH}/{made['id']}/test")
    assert (answer.status_code, answer.json()["event"]) == (202, None)
    work()

    [(headers, body)] = receiver.calls
    assert headers["Reef-Event"] == "test"
    assert (json.loads(body)["kind"], json.loads(body)["id"]) == ("subscriber.test", None)


def test_replay_of_one_delivery(api: Api, receiver: Receiver) -> None:
    made = subscribe(api, receiver.url)
    record("vm")
    distribution.distribute()
    path = f"{PATH}/{made['id']}/deliveries/{log_of(api, made)[0]['id']}/replay"
    assert api.post(path).status_code == 409
    work()
    answer = api.post(path)
    assert (answer.status_code, answer.json()["state"]) == (202, "waiting")
    work()

    assert subjects(receiver) == ["vm", "vm"]
    [entry] = log_of(api, made)
    assert len(entry["log"]) == 2


def test_replay_of_all_events_behind_a_number(database: str, api: Api, receiver: Receiver) -> None:
    record("before it subscribed")
    made = subscribe(api, receiver.url)
    record("after")
    work()
    answer = api.post(f"{PATH}/{made['id']}/replay", {"after": 0})
    assert (answer.status_code, answer.json()) == (202, {"replayed": 1})
    work()

    assert subjects(receiver) == ["after", "before it subscribed", "after"]


# -- e-mail --------------------------------------------------------------------------------------


def test_email_tells_about_several_events(api: Api, settings: Any) -> None:
    settings.HAS_EMAIL = True
    body = {"name": "me", "channel": "email", "email": "me@example.com", "kinds": ["vm"]}
    answer = api.post(PATH, body)
    assert answer.status_code == 201, answer.content
    assert "secret" not in answer.json()
    record("vm-1\nBcc: all@example.com", "vm-2", detail={"reason": "quiet"})
    work()

    [message] = mail.outbox
    assert message.to == ["me@example.com"]
    assert message.subject == "reef: vm.late vm-1 Bcc: all@example.com and 1 more"
    assert message.body.count("vm.late") == 2
    assert "by tests (reason: quiet)" in message.body
    assert {each["state"] for each in log_of(api, answer.json())} == {"delivered"}


def test_mail_server_that_refuses_is_tried_again(
    api: Api, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.HAS_EMAIL = True

    def refuse(_message: EmailMessage) -> int:
        raise smtplib.SMTPRecipientsRefused({"me@example.com": (550, b"unknown")})

    made = api.post(PATH, {"name": "me", "channel": "email", "email": "me@example.com"}).json()
    record("vm")
    with monkeypatch.context() as patch:
        patch.setattr(EmailMessage, "send", refuse)
        work()
    [entry] = log_of(api, made)
    assert entry["state"] == "waiting"
    assert "SMTPRecipientsRefused" in entry["log"][0]["problem"]
    let_waits_pass()
    work()

    assert len(mail.outbox) == 1


# -- API -----------------------------------------------------------------------------------------


def test_secret_is_shown_once_and_stored_encrypted(api: Api, receiver: Receiver) -> None:
    made = subscribe(api, receiver.url)
    path = f"{PATH}/{made['id']}"

    assert len(made["secret"]) > 30
    for answer in (api.get(PATH), api.get(path)):
        assert made["secret"] not in answer.content.decode()
    assert made["secret"] not in Subscriber.objects.get().sealed_secret
    own = subscribe(api, receiver.url, name="own", secret="chosen-by-the-receiver")
    assert "secret" not in own


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"url": "ftp://127.0.0.1/"}, "url: must begin with http:// or https:// and a host"),
        ({"url": "http://u:p@127.0.0.1/"}, "url: must not hold a password"),
        ({"url": ""}, "url: is required for a webhook"),
        ({"email": "me@example.com"}, "email: a webhook has none"),
        ({"channel": "pigeon"}, "channel: must be one of webhook, email"),
        ({"channel": "email", "url": ""}, "channel: there is no mail server; set REEF_EMAIL_URL"),
        ({"name": ""}, "name is required"),
        ({"kinds": "vm"}, "kinds: must be a list of 0 to 20 kinds"),
        ({"knid": "vm"}, "knid: "),
    ],
)
def test_wrong_fields_are_refused(api: Api, fields: dict[str, object], problem: str) -> None:
    body = {"name": "hook", "channel": "webhook", "url": "http://127.0.0.1:1/", **fields}
    answer = api.post(PATH, body)

    assert answer.status_code == 400
    assert answer.json()["error"].startswith(problem)
    assert not Subscriber.objects.exists()


def test_email_address_is_checked(api: Api, settings: Any) -> None:
    settings.HAS_EMAIL = True
    for address in ("", "nobody", "a@b\nc"):
        answer = api.post(PATH, {"name": "me", "channel": "email", "email": address})
        assert answer.status_code == 400
        assert answer.json()["error"].startswith("email: ")


def test_name_is_unique(api: Api, receiver: Receiver) -> None:
    subscribe(api, receiver.url)
    again = api.post(PATH, {"name": "hook", "channel": "webhook", "url": receiver.url})

    assert again.status_code == 409


def test_change_and_delete(api: Api, receiver: Receiver) -> None:
    made = subscribe(api, receiver.url, kinds=["vm"], subtree="left")
    path = f"{PATH}/{made['id']}"
    changed = api.client.patch(path, {"kinds": ["tree.*"]}, content_type="application/json").json()
    assert (changed["kinds"], changed["subtree"]) == (["tree"], "left")
    assert api.delete(path).json() == {"deleted": True}
    assert api.get(path).status_code == 404
    assert api.get(PATH).json() == {"subscribers": [], "count": 0}


def test_nodes_and_accounts_manage_no_subscribers(receiver: Receiver) -> None:
    grow()
    token = tokens.issue(Node.objects.get(vm_id="left"), made_by="tests")
    node = Client(headers={"authorization": f"Bearer {token}"})

    assert node.get(PATH).status_code == 403
    body = {"name": "mine", "channel": "webhook", "url": receiver.url}
    assert node.post(PATH, body, content_type="application/json").status_code == 403
    assert Client().get(PATH).status_code == 401


def test_each_event_is_one_line_of_an_email(api: Api, settings: Any) -> None:
    settings.HAS_EMAIL = True
    body = {"name": "me", "channel": "email", "email": "me@example.com", "kinds": ["vm"]}
    assert api.post(PATH, body).status_code == 201
    record("vm-1", detail={"reason": "quiet\r\n\n2026-11-30 vm.destroyed vm-2\u2028by root"})
    work()

    [message] = mail.outbox
    assert len(message.body.splitlines()) == 1
    assert "(reason: quiet 2026-11-30 vm.destroyed vm-2 by root)" in message.body


# -- errors of reef's own, leases ----------------------------------------------------------------


def test_unexpected_error_is_an_attempt(
    api: Api, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise TypeError("with sk-secret")

    made = subscribe(api, receiver.url)
    record("vm")
    with monkeypatch.context() as patch:
        patch.setattr(webhooks, "call", fail)
        work()

    [entry] = log_of(api, made)
    assert (entry["state"], entry["attempts"]) == ("waiting", 1)
    assert entry["log"][0]["problem"] == "internal error: TypeError"
    assert api.get(f"{PATH}/{made['id']}").json()["failures"] == 1
    assert not Subscriber.objects.exclude(leased_until=None).exists()
    let_waits_pass()
    work()
    assert subjects(receiver) == ["vm"]


def test_lease_is_renewed_before_each_attempt(api: Api, receiver: Receiver) -> None:
    ends = []

    def answer(handler: BaseHTTPRequestHandler) -> None:
        row = Subscriber.objects.get()
        assert row.leased_until is not None
        ends.append(row.leased_until)
        connection.close()
        status(204)(handler)

    subscribe(api, receiver.url)
    record("a", "b", "c")
    receiver.answers = [answer] * 3
    work()

    assert len(ends) == 3
    assert ends[0] < ends[1] < ends[2]
    assert Subscriber.objects.get().leased_until is None


def test_sender_that_lost_its_lease_stops(api: Api, receiver: Receiver) -> None:
    taken = clock.now() + timedelta(minutes=2)

    def answer(handler: BaseHTTPRequestHandler) -> None:
        Subscriber.objects.update(leased_until=taken)
        connection.close()
        status(204)(handler)

    subscribe(api, receiver.url)
    record("a", "b")
    receiver.answers = [answer]
    work()

    assert subjects(receiver) == ["a"]
    assert Subscriber.objects.get().leased_until == taken


# -- addresses -----------------------------------------------------------------------------------


@pytest.fixture
def only_remote(settings: Any) -> None:
    settings.LOCAL_WEBHOOKS = False


@pytest.mark.usefixtures("only_remote")
@pytest.mark.parametrize(
    "url",
    [
        *("http://127.0.0.1:9/", "http://[::1]/", "http://localhost/", "http://0.0.0.0/"),
        *("http://169.254.169.254/latest/", "http://[fe80::1]/", "http://[::ffff:127.0.0.1]/"),
        "http://[fd00:ec2::254]/",
    ],
)
def test_local_address_is_refused_for_a_subscriber(api: Api, url: str) -> None:
    answer = api.post(PATH, {"name": "hook", "channel": "webhook", "url": url})

    assert answer.status_code == 400
    assert answer.json()["error"].startswith("url: is on reef's own machine or link")


@pytest.mark.usefixtures("only_remote")
@pytest.mark.parametrize("host", ["127.1", "2130706433", "localhost"])
def test_name_of_a_local_address_is_refused_when_called(
    api: Api, receiver: Receiver, host: str
) -> None:
    row = Subscriber.objects.create(
        name="hook", channel="webhook", url=receiver.url.replace("127.0.0.1", host)
    )
    record("vm")
    work()

    assert receiver.calls == []
    [attempt] = log_of(api, {"id": row.pk})[0]["log"]
    assert attempt["problem"].startswith("not called: ")
    assert (attempt["code"], attempt["answer"]) == (None, "")


@pytest.mark.usefixtures("only_remote")
def test_name_that_changes_its_address_is_refused(
    api: Api, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first answer of DNS is a public address, the second one the loopback."""
    answers = ["93.184.215.14"]

    async def resolve(self: Any, host: str, port: Any, **_: Any) -> list[Any]:
        address = answers.pop() if answers else "127.0.0.1"
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port or 0))]

    monkeypatch.setattr(asyncio.BaseEventLoop, "getaddrinfo", resolve)
    url = receiver.url.replace("127.0.0.1", "rebinding.test")
    Subscriber.objects.create(name="hook", channel="webhook", url=url)
    record("vm")
    work()

    assert receiver.calls == []
    [attempt] = Delivery.objects.get().log
    assert attempt["problem"].startswith("not called: 127.0.0.1 is on reef's own machine")


@pytest.mark.usefixtures("only_remote")
def test_webhooks_of_rules_may_be_on_this_machine(receiver: Receiver) -> None:
    assert webhooks.call(receiver.url, b"{}", {}, allow_loopback=True).code == 204
    with pytest.raises(webhooks.WebhookFailed, match="not called"):
        webhooks.call("http://169.254.169.254/", b"{}", {}, allow_loopback=True)


def test_compressed_answer_is_not_unpacked(receiver: Receiver) -> None:
    bomb = gzip.compress(b"0" * 10_000_000)
    receiver.answers = [status(200, bomb, **{"Content-Encoding": "gzip"})]

    answer = webhooks.call(receiver.url, b"{}", {})

    assert "000" not in answer.text
    [(headers, _)] = receiver.calls
    assert headers["Accept-Encoding"] == "identity"
