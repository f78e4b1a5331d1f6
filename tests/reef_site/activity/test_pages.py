"""The page "Events", and the pages of subscribers."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from django.contrib.auth import get_user_model
from django.test import Client

from reef_site.activity.models import Delivery, Subscriber
from reef_site.activity.naming import with_names
from reef_site.activity.subscribers import delivery, distribution
from reef_site.activity.views import PAGE_SIZE
from reef_site.common.eventlog import recording
from reef_site.common.eventlog.models import Event
from reef_site.common.eventlog.recording import NewEvent
from registry.models import VM, Role, Status
from tests.dispatching import drop_tasks
from tests.fleets import grow
from tests.lieutenants.conftest import operator
from tests.webhooks import Receiver
from vmtree import services as tree
from vmtree.services import NewNode

__all__ = ["operator"]
pytestmark = pytest.mark.django_db
PAGE = "/event-log/"
SUBSCRIBERS = f"{PAGE}subscribers/"


@pytest.fixture(autouse=True)
def _no_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    drop_tasks(monkeypatch, "activity.")


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.close()


def page(client: Client, path: str, status: int = 200) -> str:
    answer = client.get(path)
    assert answer.status_code == status, answer.content
    return answer.content.decode()


def record(*subjects: str, kind: str = "vm.late") -> None:
    recording.record_many(
        [NewEvent(kind, subject, {"reason": f"<b>{subject}</b>"}) for subject in subjects],
        actor="tests",
    )


def test_events_are_shown_newest_first(operator: Client) -> None:
    record("early", "late")
    html = page(operator, PAGE)

    assert html.index("&lt;b&gt;late&lt;/b&gt;") < html.index("&lt;b&gt;early&lt;/b&gt;")
    assert f'href="{PAGE}"' in html
    # The live region is the same.
    assert page(operator, f"{PAGE}rows/").strip() in html


def test_ids_are_shown_with_names(operator: Client, django_assert_num_queries: Any) -> None:
    tree.create(NewNode("ada", "lieutenant", "01M8ADA"), by="tests")
    VM.objects.create(pk="vm-loose", name="loose", role=Role.WORKER, status=Status.STOPPED)
    record("01M8ADA", "vm-loose", "vm-unknown")
    recording.record("question.asked", "01M8Q", vm_id="01M8ADA", actor="node 01M8ADA")

    html = page(operator, f"{PAGE}?kind=question.asked")
    assert re.findall(r'(?:subject|actor)=[^"]*">(.*?)</a>', html) == ["ada", "ada"]
    links = re.findall(r'<a href="(/fleet/vm[^"]*)">(.*?)</a>', html)
    assert links == [("/fleet/vm?vm=01M8ADA", each) for each in ("01M8Q", "node 01M8ADA")]
    tree.create(NewNode("kid", "lieutenant", "01M8KID", "01M8ADA"), by="tests")
    recording.record("vm.late", "vm-x", detail={"text": "a\u202eb"}, actor="tests")
    html = page(operator, f"{PAGE}?subject=01M8KID")
    assert "parentVmId: ada (01M8ADA)" in html
    assert "text: a[U+202E]b" in page(operator, f"{PAGE}?subject=vm-x")
    html = page(operator, f"{PAGE}?kind=vm.late")
    shown = re.findall(r'subject=[^"]*">(.*?)</a>', html)
    assert shown == ["vm-x", "vm-unknown", "loose", "ada"]
    record(*(f"vm-{number}" for number in range(50)))
    events = list(Event.objects.all())
    with django_assert_num_queries(1):
        assert [each.row for each in with_names(events)] == events


def test_filters_and_pages(operator: Client) -> None:
    grow()
    record("right", *(f"vm-{number}" for number in range(PAGE_SIZE)))
    record("left", kind="lieutenant.error")

    html = page(operator, f"{PAGE}?kind=vm.*&actor=tests")
    assert "vm-99" in html
    assert ">right<" not in html
    [older] = re.findall(r'href="([^"]+)" rel="next"', html)
    assert ">right<" in page(operator, older.replace("&amp;", "&"))
    assert "lieutenant.error" in page(operator, f"{PAGE}?subtree=left")
    assert "No events match" in page(operator, f"{PAGE}?subtree=left&kind=vm")
    assert "No events match" in page(operator, f"{PAGE}?subject=nobody")
    assert "Enter a valid date" in page(operator, f"{PAGE}?since=soon")


def test_account_sees_no_refusals_and_no_subscribers() -> None:
    record("vm")
    record("secret", kind="permission.refused")
    reader = Client()
    reader.force_login(get_user_model().objects.create_user("reader"))

    html = page(reader, PAGE)
    assert ">vm.late<" in html
    assert "permission.refused" not in html
    assert SUBSCRIBERS not in html
    page(reader, SUBSCRIBERS, 403)
    assert Client().get(PAGE).status_code == 302


def test_subscriber_is_made_tested_paused_and_deleted(operator: Client, receiver: Receiver) -> None:
    body = {"name": "hook", "channel": "webhook", "url": receiver.url, "kinds": "vm, tree.created"}
    made = operator.post(SUBSCRIBERS, body)
    assert made.status_code == 201
    row = Subscriber.objects.get()
    assert row.filter.kinds == ("vm", "tree.created")
    one = f"{SUBSCRIBERS}{row.pk}/"
    html = made.content.decode()
    secret = html[html.index("<code>") + 6 : html.index("</code>")]
    assert len(secret) > 30
    assert "no-store" in made.headers["Cache-Control"]
    assert secret not in page(operator, one)
    assert receiver.url in page(operator, SUBSCRIBERS)

    assert operator.post(f"{one}test/").status_code == 302
    delivery.run(row.pk)
    assert "subscriber.test" in page(operator, one)
    assert "Deliver again" in page(operator, f"{one}deliveries/")
    entry = Delivery.objects.get()
    assert operator.post(f"{one}deliveries/{entry.pk}/replay/").status_code == 302
    entry.refresh_from_db()
    assert entry.state == "waiting"

    operator.post(f"{one}pause/")
    assert "paused" in page(operator, one)
    # It cannot be tested now, and the page says why.
    assert operator.post(f"{one}test/").status_code == 409
    operator.post(f"{one}resume/")
    assert f'href="{one}delete/"' in page(operator, one)
    assert "Delete subscriber hook?" in page(operator, f"{one}delete/")
    assert Subscriber.objects.exists()
    assert operator.post(f"{one}delete/").headers["Location"] == SUBSCRIBERS
    assert not Subscriber.objects.exists()
    page(operator, one, 404)


def test_failing_subscriber_is_shown(operator: Client, receiver: Receiver) -> None:
    operator.post(SUBSCRIBERS, {"name": "hook", "channel": "webhook", "url": receiver.url})
    receiver.close()
    record("vm")
    distribution.distribute()
    row = Subscriber.objects.get()
    delivery.run(row.pk)

    assert "failing (1)" in page(operator, SUBSCRIBERS)
    assert "no answer: ConnectError" in page(operator, f"{SUBSCRIBERS}{row.pk}/")


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"url": "ftp://x"}, "must begin with http://"),
        ({"url": ""}, "is required for a webhook"),
        ({"name": ""}, "This field is required."),
        ({"kinds": "a " * 21}, "At most 20 kinds."),
        ({"channel": "email"}, "there is no mail server"),
    ],
)
def test_errors_are_shown_at_their_fields(
    operator: Client, fields: dict[str, str], text: str
) -> None:
    body = {"name": "hook", "channel": "webhook", "url": "http://127.0.0.1:1/", **fields}
    answer = operator.post(SUBSCRIBERS, body)

    assert answer.status_code == 400
    assert text in answer.content.decode()


def test_read_only_account_changes_no_subscriber(receiver: Receiver) -> None:
    row = Subscriber.objects.create(name="hook", channel="webhook", url=receiver.url)
    reader = Client()
    reader.force_login(get_user_model().objects.create_user("reader"))

    for action in ("test", "pause", "delete"):
        assert reader.post(f"{SUBSCRIBERS}{row.pk}/{action}/").status_code == 403
    assert Subscriber.objects.get().is_active


def test_admin_only_reads(operator: Client) -> None:
    record("vm")
    for model in ("eventlog/event", "activity/subscriber", "activity/delivery"):
        page(operator, f"/admin/{model}/")
        assert operator.get(f"/admin/{model}/add/").status_code == 403
