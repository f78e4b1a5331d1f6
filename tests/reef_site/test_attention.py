"""The attention list: all kinds, newest first, grouping, and dismissals."""

from __future__ import annotations

import html as markup
import re
import time
from datetime import datetime, timedelta

import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from bootloader.models import Finding, Provisioning
from lieutenants.models import Lieutenant
from lieutenants.states import Status
from reef_site.accounts import signin_links
from registry.models import VM
from registry.rules.models import Firing
from tests.lieutenants.rows import enlist
from tests.vmtree.planted import plant, set_long_uptime

pytestmark = pytest.mark.django_db


@pytest.fixture
def operator() -> Client:
    client = Client()
    client.force_login(signin_links.make_operator())
    return client


def minutes_ago(minutes: float) -> datetime:
    return timezone.now() - timedelta(minutes=minutes)


def create_failed(name: str, minutes: float, error: str = "exit code 137") -> Lieutenant:
    return enlist(name, Status.ERROR, error=error, status_since=minutes_ago(minutes))


def create_silent(vm_id: str, minutes: float) -> None:
    vm = VM(
        id=vm_id, name=vm_id, role="worker", registered_by="tests", last_seen=minutes_ago(minutes)
    )
    vm.seen(vm.last_seen, status="running")
    vm.late_after = vm.silent_after = minutes_ago(minutes)
    vm.save()


def panel(client: Client, query: str = "") -> str:
    """Return the text of the panel."""
    html = client.get(f"/parts/{query}").content.decode()
    found = re.search(
        r'<section class="panel" aria-labelledby="attention">.*?</section>', html, re.S
    )
    text = re.sub(r"<[^>]+>", " ", found[0]) if found else ""
    return " ".join(markup.unescape(text).split())


def press_seen(client: Client, name: str) -> None:
    """Press the button "Seen" of this item."""
    html = client.get("/parts/").content.decode()
    for form in re.findall(r'<form class="seen".*?</form>', html, re.S):
        if f": {name}<" in form:
            fields = dict(re.findall(r'name="(kind|subject|cause)" value="([^"]*)"', form))
            answer = client.post(
                "/attention/seen", {k: markup.unescape(v) for k, v in fields.items()}
            )
            assert answer.status_code == 302
            return
    raise AssertionError(f"no button for {name}")


def test_list_contains_all_kinds_newest_first(operator: Client) -> None:
    set_long_uptime()
    create_failed("ada", 60)
    stall = {"last_activity_at": minutes_ago(5), "waiting_for": "the model"}
    enlist("dora", Status.WORKING, status_since=minutes_ago(50), **stall)
    enlist("carl", trouble="400 the provider refuses", status_since=minutes_ago(24))
    create_silent("box-1", 12)
    boot = {"profile": "full", "provider": "vers", "actor": "tests", "state": "failed"}
    Provisioning.objects.create(
        name="boot-1", reason="commit not found", state_since=minutes_ago(8), **boot
    )
    Finding.objects.create(
        kind="unknown",
        provider="vers",
        machine_id="m-1",
        text="nobody knows it",
        proposal="delete",
        found_at=minutes_ago(3),
    )
    Firing.objects.create(
        rule_name="call us",
        event="vm-silent",
        action="webhook",
        subject="box-9",
        cause_at=minutes_ago(2),
        state="failed",
        outcome="404 from the webhook",
        ended_at=minutes_ago(1),
    )
    shown = panel(operator)
    order = ["call us", "m-1", "dora", "boot-1", "box-1", "carl", "ada"]
    places = [shown.index(name) for name in order]
    assert places == sorted(places), shown
    assert shown.startswith("Needs attention 7")
    for words in (
        "404 from the webhook",
        "waiting for the model",
        "commit not found",
        "task failed",
    ):
        assert words in shown


def test_old_errors_do_not_hide_new_ones(operator: Client) -> None:
    for number in range(30):
        create_failed(f"old-{number}", 1000 + number)
    create_failed("new", 1, error="no such model")
    shown = panel(operator)
    assert "Needs attention 31" in shown
    assert shown.index("no such model") < shown.index("30 ×")
    assert "30 × error newest 16 h ago exit code 137" in shown


def test_dismissed_item_returns_with_another_cause(operator: Client) -> None:
    ada = create_failed("ada", 10)
    press_seen(operator, "ada")
    assert "ada" not in panel(operator)
    assert "1 seen" in panel(operator)
    assert "seen by operator" in panel(operator, "?seen").replace(signin_links.OPERATOR, "operator")
    Lieutenant.objects.filter(pk=ada.pk).update(status_since=minutes_ago(0))
    assert "ada" in panel(operator)


def test_dismissed_group_returns_only_with_newer_items(operator: Client) -> None:
    for number in range(5):
        create_failed(f"old-{number}", 100 + number)
    press_seen(operator, "all 5")
    assert "5 seen" in panel(operator)
    create_failed("fresh", 1)
    shown = panel(operator)
    assert "Needs attention 1 " in shown
    assert "fresh" in shown
    assert "old-" not in shown


def test_thousands_of_silent_vms_are_one_row(operator: Client) -> None:
    plant(5000)
    VM.objects.filter(status="running").update(
        late_after=minutes_ago(9), silent_after=minutes_ago(9)
    )
    create_silent("latest", 2)
    operator.get("/parts/")
    began = time.monotonic()
    with CaptureQueriesContext(connection) as seen:
        shown = panel(operator)
    assert time.monotonic() - began < 2
    assert len(seen) < 30
    assert "4,991 × silent newest 2 min ago latest and others" in shown
    press_seen(operator, "all 4,991")
    assert "Needs attention 0 Nothing new. 4,991 seen" in panel(operator)
    create_silent("later", 1)
    assert "later" in panel(operator)
    assert "Needs attention 1 " in panel(operator)


def test_number_of_statements_does_not_grow(operator: Client) -> None:
    def statements() -> int:
        with CaptureQueriesContext(connection) as seen:
            operator.get("/parts/")
        return len(seen)

    create_failed("one", 5)
    create_silent("box", 5)
    operator.get("/parts/")
    few = statements()
    for number in range(40):
        create_failed(f"more-{number}", 5, error=f"error {number}")
        create_silent(f"box-{number}", 5)
    assert statements() == few


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"kind": "cat", "subject": "x", "cause": "y"}, "kind: must be one of"),
        ({"kind": "vm", "subject": "", "cause": "y"}, "subject: must have"),
        ({"kind": "vm", "subject": "x", "cause": "y" * 101}, "cause: must have"),
        ({"kind": "vm", "subject": "group:silent", "cause": "soon"}, "cause: of a group must"),
        (
            {"kind": "vm", "subject": "group:silent", "cause": "2026-01-01"},
            "cause: of a group must",
        ),
    ],
)
def test_invalid_fields_are_rejected(
    operator: Client, fields: dict[str, str], problem: str
) -> None:
    answer = operator.post("/attention/seen", fields)
    assert answer.status_code == 400
    assert answer.json()["error"].startswith(problem)


def test_read_only_accounts_cannot_dismiss() -> None:
    client = Client()
    client.force_login(User.objects.create_user("viola"))
    create_failed("ada", 10)
    assert "ada" in panel(client)
    assert "Seen" not in panel(client)
    fields = {"kind": "lieutenant", "subject": "x", "cause": "y"}
    assert client.post("/attention/seen", fields).status_code == 403
