"""Notifications of people: channels, when something is told, forms of webhooks, the outbox."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime, time, timedelta
from typing import Any

import pytest
from django.contrib.auth import get_user_model
from django.contrib.auth.models import User
from django.core import mail
from django.test import Client

from lieutenants.models import Lieutenant
from lieutenants.states import Status
from reef_site.activity.models import Delivery, DeliveryState, Presence, Subscriber
from reef_site.activity.personal import browser, kinds, texts
from reef_site.activity.personal.texts import Notice
from reef_site.activity.subscribers import delivery, distribution
from reef_site.common import clock, webhook_secret
from reef_site.common.eventlog import recording
from reef_site.common.eventlog.models import Event
from tests.conftest import Api
from tests.dispatching import drop_tasks
from tests.lieutenants.conftest import operator
from tests.lieutenants.rows import enlist, page
from tests.webhooks import Receiver, status

__all__ = ["operator"]
pytestmark = pytest.mark.django_db
PAGE = "/notifications/"


@pytest.fixture(autouse=True)
def _no_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    drop_tasks(monkeypatch, "activity.")


@pytest.fixture(autouse=True)
def _mail(settings: Any) -> None:
    settings.HAS_EMAIL = True


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.close()


def add(client: Client, by: str, address: str = "", **fields: object) -> Subscriber:
    body = {"by": by, "address": address, "kinds": ["question", "error"], "wait_seconds": 0}
    answer = client.post(PAGE, {**body, **fields})
    assert answer.status_code == 201, re.findall(r'class="error".*?</p>', answer.content.decode())
    return Subscriber.objects.latest("pk")


def fail(name: str = "ada", reason: str = "exit code 137") -> Lieutenant:
    row = enlist(name, status=Status.WORKING)
    row.move(Status.ERROR, reason=reason)
    return row


def work() -> None:
    distribution.distribute()
    for pk in Subscriber.objects.values_list("pk", flat=True):
        delivery.run(pk)


def states() -> list[str]:
    return list(Delivery.objects.order_by("pk").values_list("state", flat=True))


def answers() -> list[str]:
    return [row.last_attempt.get("answer", "") for row in Delivery.objects.order_by("pk")]


# -- what is sent --------------------------------------------------------------------------------


def test_person_is_told_by_mail(operator: Client) -> None:
    add(operator, "email", "ada@ops.example")
    fail()
    fail("bella")
    recording.record("vm.silent", "vm-7", actor="tests")
    work()
    work()

    [message] = mail.outbox
    assert message.to == ["ada@ops.example"]
    assert message.subject == "reef: ada is in error: exit code 137 (and 1 more)"
    assert "bella is in error" in message.body
    assert "vm-7" not in message.body
    assert f"/lieutenants/by-id/{Lieutenant.objects.get(name='ada').pk}/" in message.body
    assert states() == ["delivered", "delivered"]


@pytest.mark.parametrize(("form", "member"), [("slack", "text"), ("discord", "content")])
def test_chat_gets_text_without_mentions(
    operator: Client, receiver: Receiver, form: str, member: str
) -> None:
    channel = add(operator, form, receiver.url)
    fail(reason="<!channel> & @everyone")
    receiver.answers = [status(200, b"ok")]
    work()

    [(headers, body)] = receiver.calls
    text = json.loads(body)[member]
    assert text.startswith("• ada is in error: ")
    assert "<!channel>" not in text
    assert json.loads(body).get("allowed_mentions", {"parse": []}) == {"parse": []}
    assert "Reef-Signature" not in headers
    assert answers() == ["ok"]
    # The URL is a secret there, so only its host is shown and stored as text.
    assert channel.url == receiver.url.replace("hook", "…")
    assert receiver.url not in page(operator, f"{PAGE}{channel.pk}/")
    assert webhook_secret.decrypt(channel.sealed_secret) == receiver.url


def test_generic_webhook_is_signed(operator: Client, receiver: Receiver) -> None:
    add(operator, "webhook", receiver.url)
    fail()
    work()
    [(headers, body)] = receiver.calls
    found = json.loads(body)
    assert headers["Reef-Signature"].startswith("t=")
    assert found["notices"][0]["text"] == "ada is in error: exit code 137"
    assert found["events"][0]["kind"] == "lieutenant.error"


def test_long_chats_say_what_they_leave_out() -> None:
    some = [Notice("test", "x" * 250, "/")] * 20
    body = texts.message("discord", some, [])
    assert len(body["content"]) < 2000
    assert body["content"].endswith("more")


def test_failed_call_is_retried_and_shown(operator: Client, receiver: Receiver) -> None:
    channel = add(operator, "slack", receiver.url)
    fail()
    receiver.answers = [status(404, b"no_service")]
    work()
    html = page(operator, f"{PAGE}{channel.pk}/")
    assert "failing (1)" in html
    assert "answered 404" in html
    assert "no_service" in html
    Subscriber.objects.update(retry_at=None)
    Delivery.objects.update(due_at=clock.now())
    work()
    assert states() == ["delivered"]


def test_outbox_says_what_was_told(operator: Client, receiver: Receiver) -> None:
    channel = add(operator, "webhook", receiver.url)
    row = fail(reason="<b>exit code 137</b>")
    work()
    operator.post(f"{PAGE}{channel.pk}/test/")
    html = page(operator, f"{PAGE}{channel.pk}/_outbox")
    link = f'href="/lieutenants/by-id/{row.pk}/">ada is in error: &lt;b&gt;exit code 137'
    assert link in html
    assert texts.TEST in html
    Event.objects.all().delete()
    assert "lieutenant.error" in page(operator, f"{PAGE}{channel.pk}/_outbox")


def test_outbox_tells_only_what_its_owner_may_read() -> None:
    user = get_user_model().objects.create_user("reader", email="reader@ops.example")
    reader = Client()
    reader.force_login(user)
    channel = add(reader, "email", "reader@ops.example", kinds=["error"])
    recording.record("permission.token-made", "box-7", actor="tests", vm_id="")
    # As if it had had more rights before.
    event = Event.objects.get(kind="permission.token-made")
    channel.deliveries.create(event_number=event.pk, kind=event.kind)
    html = page(reader, f"{PAGE}{channel.pk}/_outbox")
    assert "permission.token-made" in html
    assert "box-7" not in html


def test_open_outbox_follows_what_is_due_soon(operator: Client, receiver: Receiver) -> None:
    channel = add(operator, "webhook", receiver.url)
    url = f"{PAGE}{channel.pk}/_outbox"
    follows = 'hx-trigger="every 2s"'
    assert follows not in page(operator, url)
    operator.post(f"{PAGE}{channel.pk}/test/")
    assert follows in page(operator, url)
    assert follows in page(operator, f"{PAGE}{channel.pk}/")
    Delivery.objects.update(due_at=clock.now() + timedelta(hours=1))
    assert follows not in page(operator, url)
    Delivery.objects.update(due_at=clock.now())
    work()
    assert states() == ["delivered"]
    assert follows not in page(operator, url)


def test_account_is_told_only_what_it_may_read() -> None:
    user = get_user_model().objects.create_user("reader", email="reader@ops.example")
    reader = Client()
    reader.force_login(user)
    add(reader, "email", "reader@ops.example", kinds=["error"])
    # As if it had had more rights before.
    Subscriber.objects.update(wanted=kinds.filter_for(["token", "error"], "").as_json())
    recording.record("permission.token-made", "t", actor="tests", vm_id="")
    fail()
    work()
    assert [row.kind for row in Delivery.objects.all()] == ["lieutenant.error"]
    User.objects.update(is_active=False)
    fail("bella")
    work()
    assert len(mail.outbox) == 1


# -- when ----------------------------------------------------------------------------------------


def test_what_is_over_by_then_is_not_told(operator: Client) -> None:
    add(operator, "email", "ada@ops.example", wait_seconds=300)
    row = fail()
    fail("bella")
    work()
    assert not mail.outbox
    row.move(Status.STARTING, reason="resumed")
    Delivery.objects.filter(kind="lieutenant.error").update(due_at=clock.now())
    work()
    assert [message.subject for message in mail.outbox] == [
        "reef: bella is in error: exit code 137"
    ]
    assert states() == ["skipped", "delivered"]
    assert answers()[0] == "not sent: it was over before"


def test_what_waits_goes_with_the_first_that_is_due(operator: Client) -> None:
    add(operator, "email", "ada@ops.example", wait_seconds=300)
    fail()
    work()
    Delivery.objects.update(due_at=clock.now())
    fail("bella")
    work()
    assert "and 1 more" in mail.outbox[0].subject


def test_quiet_hours(operator: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    operator.cookies["reef-zone"] = "Europe%2FBerlin"
    channel = add(operator, "email", "ada@ops.example", quiet_from="22:00", quiet_until="07:00")
    night = datetime(2026, 3, 2, 22, 30, tzinfo=UTC)
    monkeypatch.setattr(clock, "now", lambda: night)
    fail()
    work()
    assert not mail.outbox
    channel.refresh_from_db()
    assert channel.retry_at == datetime(2026, 3, 3, 6, 0, tzinfo=UTC)
    assert "quiet until 07:00" in page(operator, PAGE)
    # A test is sent all the same.
    operator.post(f"{PAGE}{channel.pk}/test/")
    work()
    assert [message.subject for message in mail.outbox] == [f"reef: {texts.TEST}"]
    monkeypatch.setattr(clock, "now", lambda: datetime(2026, 3, 3, 6, 1, tzinfo=UTC))
    work()
    assert len(mail.outbox) == 2


@pytest.mark.parametrize(
    ("span", "local", "end"),
    [
        ((22, 7), 23, "2026-03-03 07:00"),
        ((22, 7), 6, "2026-03-02 07:00"),
        ((22, 7), 7, ""),
        ((12, 14), 13, "2026-03-02 14:00"),
        ((12, 14), 14, ""),
        ((8, 8), 8, ""),
    ],
)
def test_end_of_quiet_hours(span: tuple[int, int], local: int, end: str) -> None:
    row = Subscriber(quiet_from=time(span[0]), quiet_until=time(span[1]))
    found = row.quiet_end(datetime(2026, 3, 2, local, tzinfo=UTC))
    assert (f"{found:%Y-%m-%d %H:%M}" if found else "") == end


def test_open_page_is_enough_if_wanted(operator: Client) -> None:
    add(operator, "email", "ada@ops.example", only_away="on")
    assert 'content="away"' in page(operator, PAGE)
    operator.post(f"{PAGE}_news", {"visible": "1"})
    fail()
    work()
    assert not mail.outbox
    assert answers() == ["not sent: a page of reef was open"]
    Presence.objects.update(seen_at=clock.now() - timedelta(minutes=5))
    fail("bella")
    work()
    assert len(mail.outbox) == 1


# -- browsers ------------------------------------------------------------------------------------


def news(client: Client, field: str = "show") -> list[dict[str, str]]:
    found: list[dict[str, str]] = client.post(f"{PAGE}_news", {field: "1"}).json()["notices"]
    return found


def test_browser_shows_each_thing_once(operator: Client) -> None:
    channel = add(operator, "browser")
    assert 'content="browser"' in page(operator, PAGE)
    fail()
    work()
    assert states() == ["waiting"]
    # A browser without permission leaves it to another.
    assert news(operator, "visible") == []
    [shown] = news(operator)
    assert shown["title"] == "ada is in error: exit code 137"
    assert shown["path"].startswith("/lieutenants/by-id/")
    assert news(operator) == []
    assert states() == ["delivered"]

    operator.post(f"{PAGE}{channel.pk}/test/")
    assert [each["title"] for each in news(operator)] == [texts.TEST]
    assert Client().post(f"{PAGE}_news", {"show": "1"}).status_code == 302


def test_browser_gives_up_after_a_day(operator: Client) -> None:
    add(operator, "browser")
    fail()
    work()
    browser.give_up()
    assert states() == ["waiting"]
    Delivery.objects.update(since=clock.now() - timedelta(days=2))
    browser.give_up()
    assert states() == ["failed"]


# -- the page ------------------------------------------------------------------------------------


def test_channel_is_changed_switched_off_and_deleted(operator: Client) -> None:
    channel = add(operator, "email", "ada@ops.example")
    one = f"{PAGE}{channel.pk}/"
    body = {"kinds": ["silent"], "wait_seconds": 900, "subtree": ""}
    assert operator.post(one, body).status_code == 302
    channel.refresh_from_db()
    assert (channel.filter.kinds, channel.wait_seconds) == (("vm.silent",), 900)
    assert "A VM falls silent" in page(operator, PAGE)
    assert operator.post(one, {**body, "quiet_from": "22:00"}).status_code == 400

    operator.post(f"{one}off/")
    recording.record("vm.silent", "vm-7", actor="tests")
    assert operator.post(f"{one}test/").status_code == 409
    operator.post(f"{one}on/")
    work()
    assert states() == []
    assert "?" in page(operator, f"{one}delete/")
    operator.post(f"{one}delete/")
    assert not Subscriber.objects.exists()


def test_invalid_addresses_are_marked(operator: Client, settings: Any) -> None:
    def problem(by: str, address: str) -> str:
        body = {"by": by, "address": address, "kinds": ["error"], "wait_seconds": 0}
        answer = operator.post(PAGE, body)
        assert answer.status_code == 400
        return "".join(re.findall(r'<p class="error".*?>(.*?)</p>', answer.content.decode()))

    settings.LOCAL_WEBHOOKS = False
    assert problem("email", "nobody") == "must be an e-mail address"
    assert problem("slack", "") == "is required for a webhook"
    assert "REEF_LOCAL_WEBHOOKS" in problem("discord", "http://127.0.0.1/x")
    settings.HAS_EMAIL = False
    assert "REEF_EMAIL_URL" in problem("email", "ada@ops.example")


def test_channels_of_others_are_not_there(operator: Client, api: Api) -> None:
    channel = add(operator, "email", "ada@ops.example")
    other = Client()
    other.force_login(User.objects.create_superuser("other"))
    page(other, f"{PAGE}{channel.pk}/", 404)
    assert "ada@ops.example" not in page(other, PAGE)
    assert "ada@ops.example" not in page(other, "/event-log/subscribers/")
    page(other, f"/event-log/subscribers/{channel.pk}/", 404)
    assert api.get("/events/subscribers").json()["count"] == 0
    assert Client().get(PAGE).status_code == 302


def test_webhooks_need_operator_rights() -> None:
    reader = Client()
    reader.force_login(get_user_model().objects.create_user("reader"))
    body = {"by": "slack", "address": "https://hooks.example/x", "kinds": ["error"]}
    answer = reader.post(PAGE, {**body, "wait_seconds": 0})
    assert answer.status_code == 400
    assert "need operator rights" in answer.content.decode()


def test_events_of_each_kind_stand_in_the_log() -> None:
    for kind in kinds.KINDS.values():
        for name in kind.events:
            recording.record(name, "x", actor="tests", detail={"reason": "why"}, vm_id="")
    found = texts.notices(list(Event.objects.order_by("pk")))
    assert len(found) == len(kinds.KINDS)
    assert all(each.path.startswith("/") for each in found)


def test_states_are_all_shown() -> None:
    assert {state.label for state in DeliveryState} == {
        "waiting",
        "delivered",
        "failed",
        "not sent",
    }


# -- what a person may choose --------------------------------------------------------------------


def test_quiet_hours_in_a_zone_without_a_city(operator: Client) -> None:
    operator.post("/preferences/", {"time_zone": "Etc/GMT+5"})
    hours = {"quiet_from": "22:00", "quiet_until": "06:00"}
    channel = add(operator, "email", "ada@ops.example", **hours)
    assert channel.quiet_zone == "Etc/GMT+5"
    Subscriber.objects.update(quiet_zone="-05")
    assert operator.get(PAGE).status_code == 200, "an older row has an abbreviation"


def test_read_only_accounts_are_told_at_their_own_address_what_they_may_read() -> None:
    viewer = Client()
    viewer.force_login(User.objects.create_user("viola", email="viola@ops.example"))
    form = page(viewer, PAGE)
    assert "An agent asks something" in form
    assert "A budget is used up" not in form
    body = {"by": "email", "kinds": ["error"], "wait_seconds": 0}
    assert viewer.post(PAGE, {**body, "address": "other@ops.example"}).status_code == 400
    assert not Subscriber.objects.exists()
    add(viewer, "email", "viola@ops.example", kinds=["error"])


def test_tests_follow_each_other_after_a_pause(operator: Client) -> None:
    channel = add(operator, "email", "ada@ops.example")
    assert operator.post(f"{PAGE}{channel.pk}/test/").status_code == 302
    assert operator.post(f"{PAGE}{channel.pk}/test/").status_code == 409
    assert Delivery.objects.count() == 1


def test_impossible_addresses_and_vms_are_refused(operator: Client) -> None:
    body = {"by": "email", "kinds": ["error"], "wait_seconds": 0}
    long = f"{'a' * 60}@{'.'.join(['b' * 60] * 4)}.example"
    for fields in ({"address": long}, {"address": "ada@ops.example", "subtree": "nowhere"}):
        assert operator.post(PAGE, {**body, **fields}).status_code == 400
    assert not Subscriber.objects.exists()
