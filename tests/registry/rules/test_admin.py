"""The admin of rules: secrets, validation, enabling, dry runs."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.contrib.messages import get_messages
from django.test import Client

from reef_site.common import clock, webhook_secret
from registry.models import VM
from registry.rules.models import Firing, Rule
from registry.rules.serializers import MAX_MINUTES
from tests.fleets import plant
from tests.lieutenants.rows import page

pytestmark = pytest.mark.django_db

RULES = "/admin/rules/rule/"


def messages_of(answer: Any) -> list[str]:
    return [str(message) for message in get_messages(answer.wsgi_request)]


def form_data(**fields: str) -> dict[str, str]:
    usual = {
        "name": "r",
        "enabled": "on",
        "event": "vm-silent",
        "minutes": "0",
        "action": "note",
        "grace_minutes": "0",
        "most_an_hour": "100",
    }
    return {**usual, **fields}


def test_webhook_secret_is_never_shown(operator: Client) -> None:
    hook = {"action": "webhook", "webhook_url": "http://127.0.0.1:9/"}
    html = operator.post(f"{RULES}add/", form_data(**hook)).content.decode()
    assert "is required for a webhook" in html
    answer = operator.post(f"{RULES}add/", form_data(**hook, webhook_secret="s3cret-words"))
    assert answer.status_code == 302
    rule = Rule.objects.get(name="r")
    assert webhook_secret.decrypt(rule.sealed_secret) == "s3cret-words"
    html = page(operator, f"{RULES}{rule.pk}/change/")
    assert "s3cret-words" not in html
    assert rule.sealed_secret not in html
    assert operator.post(f"{RULES}{rule.pk}/change/", form_data(**hook)).status_code == 302
    rule.refresh_from_db()
    assert webhook_secret.decrypt(rule.sealed_secret) == "s3cret-words"


def test_form_rejects_what_the_api_rejects(operator: Client) -> None:
    html = operator.post(f"{RULES}add/", form_data(action="destroy")).content.decode()
    assert "waits 5 minutes or more" in html
    assert not Rule.objects.filter(name="r").exists()


def test_form_has_the_limits_of_the_api(operator: Client) -> None:
    form = form_data(minutes=str(MAX_MINUTES + 1))
    html = operator.post(f"{RULES}add/", form).content.decode()
    assert f"minutes: must be a whole number from 0 to {MAX_MINUTES}" in html
    assert not Rule.objects.filter(name="r").exists()


def test_enabled_rule_ignores_earlier_events(operator: Client) -> None:
    long_ago = clock.now() - timedelta(days=9)
    rule = Rule.objects.create(
        name="r", event="vm-registered", action="note", watched_from=long_ago
    )
    form = {"action": "switch_on", "_selected_action": [rule.pk]}
    assert messages_of(operator.post(RULES, form)) == ["r: enabled"]
    rule.refresh_from_db()
    assert rule.enabled
    assert rule.watched_from > long_ago + timedelta(days=8)
    operator.get("/admin/")
    assert messages_of(operator.post(RULES, {**form, "action": "switch_off"})) == ["r: disabled"]


def test_dry_run_page_shows_cases_and_evidence(operator: Client) -> None:
    rule = Rule.objects.create(name="reaper", event="vm-silent", action="destroy", grace_minutes=60)
    assert "every match was already handled" in page(operator, f"{RULES}{rule.pk}/dry-run/")
    vm, ago = plant("<b>gone"), clock.now() - timedelta(hours=1)
    VM.objects.filter(pk=vm.pk).update(late_after=ago, silent_after=ago)
    html = page(operator, f"{RULES}{rule.pk}/dry-run/")
    assert "&lt;b&gt;gone" in html
    assert "waits for more evidence" in html
    assert "The rule is disabled" in html
    assert not Firing.objects.exists()
