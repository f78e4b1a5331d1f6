"""The pages of rules: sentences, counts, on and off, dry run, firings, a test of the webhook."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth import get_user_model
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from reef_site.common import clock, webhook_secret
from registry.models import VM
from registry.rules import sentences
from registry.rules.models import Action, Event, Firing, Rule
from tests.fleets import plant
from tests.lieutenants.rows import page
from tests.webhooks import Receiver, status

pytestmark = pytest.mark.django_db
PAGE = "/rules/"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.close()


def form_data(**fields: str) -> dict[str, str]:
    usual = {"name": "r", "event": "vm-silent", "minutes": "0", "action": "note"}
    return {**usual, "grace_minutes": "0", "most_an_hour": "100", **fields}


def rule_of(**fields: Any) -> Rule:
    usual = {"name": "mine", "event": Event.VM_SILENT, "action": Action.NOTE}
    return Rule.objects.create(**{**usual, **fields})


def fire(rule: Rule, count: int, state: str = "done", ago: timedelta = timedelta()) -> None:
    for number in range(count):
        subject = f"{state}-{ago}-{number}"
        Firing.objects.create(
            rule=rule,
            rule_name=rule.name,
            event=rule.event,
            action=rule.action,
            subject=subject,
            cause_at=clock.now(),
            state=state,
            at=clock.now() - ago,
            outcome=f"<b>{state}</b>",
        )


def test_list_says_what_each_rule_does_and_how_often_it_fired(operator: Client) -> None:
    Rule.objects.all().delete()
    rule = rule_of(enabled=True, minutes=10, role="worker", name_pattern="build*", grace_minutes=60)
    rule_of(name="other")
    fire(rule, 31)
    fire(rule, 2, "failed")
    fire(rule, 4, "waiting", timedelta(days=2))
    html = page(operator, PAGE)
    assert (
        "When a VM has been silent for 10 minutes, record it. Only for the role worker and names"
        " like build*. Waits 1 hour before that, and checks again."
    ) in html
    assert "33 times today" in html
    assert "2 failed" in html
    assert "4 waiting" in html
    assert "not today" in html
    assert "33 times today" in page(operator, f"{PAGE}_rows")


def test_each_event_and_action_has_words() -> None:
    for event in Event:
        assert sentences.describe(Rule(event=event, action=Action.NOTE)).startswith("When ")
    assert all(sentences.then(Rule(event=Event.VM_LATE, action=action)) for action in Action)


def test_number_of_queries_is_constant(operator: Client) -> None:
    def count() -> int:
        with CaptureQueriesContext(connection) as seen:
            page(operator, PAGE)
        # Now and then a request also writes when this session was last used.
        return len([each for each in seen if each["sql"].startswith("SELECT")])

    fire(rule_of(), 2)
    few = count()
    for number in range(10):
        fire(rule_of(name=f"r{number}"), 2)
    assert count() == few


def test_rule_is_made_switched_changed_and_deleted(operator: Client) -> None:
    made = operator.post(f"{PAGE}new/", form_data(minutes="5"))
    assert made.status_code == 201
    rule = Rule.objects.get(name="r")
    assert not rule.enabled
    one = f"{PAGE}{rule.pk}/"

    assert operator.post(f"{one}on/", {"list": "1"}).headers["Location"] == PAGE
    rule.refresh_from_db()
    assert rule.enabled
    assert operator.post(one, form_data(minutes="7")).status_code == 302
    rule.refresh_from_db()
    assert (rule.minutes, rule.enabled) == (7, True)
    operator.post(f"{one}off/")
    rule.refresh_from_db()
    assert not rule.enabled
    html = operator.post(one, form_data(action="destroy"))
    assert html.status_code == 400
    assert "waits 5 minutes or more" in html.content.decode()
    assert "Delete the rule r?" in page(operator, f"{one}delete/")
    operator.post(f"{one}delete/")
    assert not Rule.objects.filter(name="r").exists()
    page(operator, one, 404)


def test_taken_name_is_marked(operator: Client) -> None:
    rule_of()
    answer = operator.post(f"{PAGE}new/", form_data(name="mine"))
    assert answer.status_code == 400
    assert "already exists" in answer.content.decode()


def test_generated_secret_is_shown_once(operator: Client) -> None:
    hook = form_data(action="webhook", webhook_url="http://127.0.0.1:9/")
    html = operator.post(f"{PAGE}new/", hook).content.decode()
    rule = Rule.objects.get(name="r")
    secret = webhook_secret.decrypt(rule.sealed_secret)
    assert f"<code>{secret}</code>" in html
    assert secret not in page(operator, f"{PAGE}{rule.pk}/")
    # Without a new one the present one stays.
    operator.post(f"{PAGE}{rule.pk}/", hook)
    rule.refresh_from_db()
    assert webhook_secret.decrypt(rule.sealed_secret) == secret


def test_dry_run_names_the_cases(operator: Client) -> None:
    plant("vm-quiet")
    plant("vm-well")
    past = clock.now() - timedelta(hours=1)
    VM.objects.filter(pk="vm-quiet").update(late_after=past, silent_after=past)
    rule = rule_of()
    html = page(operator, f"{PAGE}{rule.pk}/dry-run/")
    assert "It would record it in 1 case</strong>" in html
    assert "vm-quiet" in html
    assert "vm-well" not in html
    assert not Firing.objects.exists()


def test_firings_are_filtered_and_escaped(operator: Client) -> None:
    rule, other = rule_of(), rule_of(name="other")
    fire(rule, 1)
    fire(other, 1, "failed")
    html = page(operator, f"{PAGE}firings/")
    assert html.count('id="firing-') == 2
    assert "&lt;b&gt;done&lt;/b&gt;" in html
    assert "done" not in page(operator, f"{PAGE}firings/?state=failed").split("</form>")[-1]
    assert page(operator, f"{PAGE}firings/?rule={other.pk}").count('id="firing-') == 1
    assert page(operator, f"{PAGE}firings/?rule=999999").count('id="firing-') == 0


def test_webhook_is_tested(operator: Client, receiver: Receiver) -> None:
    rule = rule_of(action=Action.WEBHOOK, webhook_url=receiver.url)
    rule.set_secret("s3cret-words")
    rule.save()
    receiver.answers = [status(200, b"only the status is shown")]
    # Tests make the call in the request.
    answer = operator.post(f"{PAGE}{rule.pk}/test/", follow=True)
    html = answer.content.decode()
    assert "The webhook answered 200." in html
    assert "only the status" not in html
    [(headers, body)] = receiver.calls
    assert headers["Reef-Firing"] == "test"
    assert headers["Reef-Signature"]
    assert json.loads(body)["text"] == "This is a test."
    assert not Firing.objects.exists()
    assert operator.post(f"{PAGE}{rule_of(name='no webhook').pk}/test/").status_code == 409


def test_only_operators_see_rules() -> None:
    rule = rule_of()
    reader = Client()
    reader.force_login(get_user_model().objects.create_user("reader"))
    for path in ("", "_rows", "new/", "firings/", f"{rule.pk}/", f"{rule.pk}/dry-run/"):
        page(reader, f"{PAGE}{path}", 403)
    assert reader.post(f"{PAGE}{rule.pk}/on/").status_code == 403
    assert f'href="{PAGE}"' not in page(reader, "/")
    assert Client().get(PAGE).status_code == 302
