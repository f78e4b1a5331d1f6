"""The attention list: all kinds, the most urgent first, groups, dismissals and snoozes."""

from __future__ import annotations

import html as markup
import re
import time
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.conf import settings
from django.contrib.auth.models import User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from bootloader.models import Finding, Provisioning
from lieutenants.attention import find_lieutenants
from lieutenants.hosts.models import DataFolder
from lieutenants.models import Answer, Lieutenant, Message
from lieutenants.states import Status
from reef_site.accounts import signin_links
from reef_site.attention.models import Snooze
from reef_site.common.attention import AttentionKind, Item, attention_kinds
from registry.models import VM
from registry.rules.models import Firing
from tests.conftest import STANDIN
from tests.lieutenants.questions.test_questions_api import confirmation
from tests.lieutenants.rows import Told, enlist
from tests.vmtree.planted import plant, set_long_uptime
from tests.waiting import PATIENCE
from vmtree.models import Node

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


def test_list_contains_all_kinds_longest_waiting_first(operator: Client) -> None:
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
    # Nobody waits for the finding and the failed execution, so they come last.
    order = ["ada", "carl", "box-1", "boot-1", "dora", "m-1", "call us"]
    places = [shown.index(name) for name in order]
    assert places == sorted(places), shown
    assert shown.startswith("Needs you 7")
    for words in (
        "404 from the webhook",
        "waiting for the model",
        "commit not found",
        "task failed",
    ):
        assert words in shown


def test_old_errors_do_not_hide_new_ones(operator: Client) -> None:
    for number in range(60):
        create_failed(f"old-{number}", 1000 + number)
    create_failed("new", 1, error="no such model")
    shown = panel(operator)
    assert "Needs you 2 " in shown
    assert "no such model" in shown
    assert "60 lieutenants error newest 16 h ago exit code 137" in shown


def test_items_of_a_group_are_shown_on_demand(operator: Client) -> None:
    for number in range(4):
        create_failed(f"old-{number}", 100 + number)
    create_failed("new", 1, error="no such model")
    html = operator.get("/parts/").content.decode()
    link = re.search(r'href="/(\?group=\w+)"', html)
    assert link
    shown = panel(operator, link[1])
    assert "new error" not in shown
    for number in range(4):
        assert f"Restart : old-{number}" in shown


def test_what_waits_below_makes_an_item_urgent(operator: Client) -> None:
    create_failed("alone", 60, error="one")
    lead = create_failed("lead", 20, error="two")
    node = Node.objects.create(vm_id=lead.pk, name="lead", category="lieutenant")
    for number in range(4):
        Node.objects.create(vm_id=f"w-{number}", category="agent_vm", parent=node)
    shown = panel(operator)
    assert shown.index("lead") < shown.index("alone")
    assert "20 min ago · 4 below two" in shown


def test_list_of_one_kind(operator: Client) -> None:
    create_failed("ada", 10)
    create_silent("box-1", 12)
    set_long_uptime()
    shown = panel(operator, "?kind=vm")
    assert "box-1" in shown
    assert "ada" not in shown
    assert "all 2 VMs 1 lieutenants 1" in shown


def test_app_adds_a_kind_by_one_registration(operator: Client) -> None:
    item = Item("tide", "t-1", "high tide", "", "late", "rises", minutes_ago(3), "It rises.", "t")
    kind = AttentionKind("tides", lambda: [item])
    with attention_kinds.changed({"tide": kind}):
        assert "high tide rises 3 min ago It rises. Snooze" in panel(operator)
        press_seen(operator, "high tide")
        assert "high tide" not in panel(operator)


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
    assert "Needs you 1 " in shown
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
    assert time.monotonic() - began < 2 * PATIENCE
    assert len(seen) < 55
    assert "4,991 VMs silent newest 2 min ago lieutenant 0 (362 below) and others" in shown
    press_seen(operator, "all 4,991")
    assert "Needs you 0 Nothing needs you now. 4,991 seen" in panel(operator)
    create_silent("later", 1)
    assert "later" in panel(operator)
    assert "Needs you 1 " in panel(operator)


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
    shown = panel(client)
    assert "ada" in shown
    assert "Seen" not in shown
    assert "Restart" not in shown
    fields = {"kind": "lieutenant", "subject": "x", "cause": "y"}
    assert client.post("/attention/seen", fields).status_code == 403


def press(client: Client, label: str, name: str) -> int:
    """Press the button with this label in the row of this name, by script."""
    html = client.get("/parts/").content.decode()
    for form in re.findall(r"<form.*?</form>", html, re.S):
        if re.search(rf">{label}<span class=\"away\">: {name}<", form):
            url = re.search(r'action="([^"]*)"', form)
            fields = re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)"', form)
            values = {key: markup.unescape(value) for key, value in fields}
            assert url
            answer = client.post(url[1], values, headers={"Reef-Script": "1"})
            return answer.status_code
    raise AssertionError(f"no button {label} for {name}")


def snooze(client: Client, lieutenant: Lieutenant, hours: int) -> int:
    item = next(find_lieutenants())
    assert item.subject == lieutenant.pk
    fields = {"kind": item.kind, "subject": item.subject, "cause": item.cause}
    headers = {"Reef-Script": "1"}
    return client.post("/attention/snooze", {**fields, "hours": hours}, headers=headers).status_code


def test_snooze_hides_a_row_from_one_person_for_a_time(operator: Client) -> None:
    ada = create_failed("ada", 10)
    viewer = Client()
    viewer.force_login(User.objects.create_user("viola"))
    assert snooze(viewer, ada, 4) == 204
    assert "Nothing needs you now." in panel(viewer)
    assert "snoozed until" in panel(viewer, "?seen")
    assert "ada" in panel(operator)
    # It comes back after the time, by hand, and with another problem.
    Snooze.objects.update(until=minutes_ago(1))
    assert "ada" in panel(viewer)
    assert snooze(viewer, ada, 4) == 204
    assert snooze(viewer, ada, 0) == 204
    assert "ada" in panel(viewer)
    assert snooze(viewer, ada, 4) == 204
    Lieutenant.objects.filter(pk=ada.pk).update(status_since=minutes_ago(0))
    assert "ada" in panel(viewer)
    assert snooze(viewer, ada, 9999) == 400


def test_problems_are_solved_in_place(operator: Client, settings: Any) -> None:
    settings.PI_PATH = str(STANDIN)
    create_failed("ada", 10)
    enlist("bob", Status.PAUSED, error="exit code 1", status_since=minutes_ago(5))
    assert press(operator, "Restart", "ada") == 200
    assert press(operator, "Resume", "bob") == 200
    assert {each.name: each.status for each in Lieutenant.objects.all()} == {
        "ada": "starting",
        "bob": "starting",
    }
    shown = panel(operator)
    assert "ada" not in shown
    assert "bob" not in shown


def test_failed_task_is_sent_again_once(operator: Client) -> None:
    carl = enlist("carl", trouble="400 the provider refuses", status_since=minutes_ago(24))
    told = Told(carl)
    message = Message.objects.create(
        lieutenant=carl, text="paint it", mode="prompt", mode_asked="prompt", state="accepted"
    )
    answer = told.open_answer()
    assert "Retry" not in panel(operator)
    Answer.objects.filter(pk=answer.pk).update(
        outcome="error", message=message, ended_at=timezone.now()
    )
    assert press(operator, "Retry", "carl") == 200
    headers = {"Reef-Script": "1"}
    assert operator.post("/lieutenants/carl/retry", headers=headers).status_code == 200
    again = Message.objects.exclude(pk=message.pk).get()
    assert (again.text, again.lieutenant_id) == ("paint it", carl.pk)


def test_question_is_answered_in_the_list(operator: Client) -> None:
    question = confirmation(enlist("ada"), text="Drop the table?")
    assert "ada asks 0 s ago Snooze" in panel(operator)
    assert "Drop the table?" in panel(operator)
    headers = {"Reef-Script": "1"}
    answer = operator.post(f"/questions/{question.pk}/answer", {"button": "no"}, headers=headers)
    assert answer.status_code == 204
    assert "Drop the table?" not in panel(operator)


def test_stalled_lieutenant_with_a_queue_is_aborted_on_a_page_that_asks(operator: Client) -> None:
    stall = {"last_activity_at": minutes_ago(5), "waiting_for": "the model"}
    dora = enlist("dora", Status.WORKING, status_since=minutes_ago(50), **stall)
    assert "Abort : dora" in panel(operator)
    Message.objects.create(lieutenant=dora, text="next", mode="prompt", mode_asked="prompt")
    assert "Abort… : dora" in panel(operator)


@pytest.mark.parametrize(
    ("worked", "heard", "shown"),
    [(0, 16, ""), (2, 16, "dora stalled 2 min ago"), (50, 5, "dora stalled 5 min ago")],
)
def test_silence_counts_from_the_beginning_of_the_work(
    operator: Client, worked: int, heard: int, shown: str
) -> None:
    times = {"status_since": minutes_ago(worked), "last_activity_at": minutes_ago(heard)}
    dora = enlist("dora", Status.WORKING, **times)
    assert dora.stalled == bool(shown)
    shows = panel(operator)
    assert shown in shows
    assert ("stalled" in shows) == bool(shown)


def test_own_host_is_not_offered_to_be_taken_over(operator: Client) -> None:
    enlist("ada")
    silent = {"host": "here", "path": "/srv/data", "seen_at": minutes_ago(5)}
    DataFolder.objects.update_or_create(pk=settings.DATA_FOLDER_ID, defaults=silent)
    assert "here does not answer" in panel(operator)
    assert "logs/worker.log" in panel(operator)
    assert "Take over" not in panel(operator)


def test_seen_counts_beside_an_older_snooze(operator: Client) -> None:
    ada = create_failed("ada", 9)
    assert snooze(operator, ada, 100) == 204
    Lieutenant.objects.filter(pk=ada.pk).update(status_since=minutes_ago(1), error="another")
    assert "ada" in panel(operator)
    press_seen(operator, "ada")
    assert "ada" not in panel(operator)


def test_time_of_a_group_is_one_that_databases_can_compare(operator: Client) -> None:
    group = {"kind": "vm", "subject": "group:silent", "cause": "0001-01-01T00:00:00+01:00"}
    for path in ("seen", "snooze"):
        answer = operator.post(f"/attention/{path}", {**group, "hours": 1})
        assert answer.status_code == 400
    assert operator.get("/").status_code == 200


def test_lieutenants_at_work_displace_none_in_error(
    operator: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lieutenants.attention.MAX_ITEMS", 3)
    create_failed("ada", 60)
    for number in range(5):
        enlist(f"busy-{number}", Status.WORKING, last_activity_at=minutes_ago(0.5))
    assert "ada" in panel(operator)
