"""The home page: what works now, what changed, and the count for the titles of all pages."""

from __future__ import annotations

import re
from datetime import timedelta
from decimal import Decimal

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.utils import timezone

from bootloader.models import Finding
from lieutenants.at_work import list_at_work
from lieutenants.models import Answer, Message, Usage
from lieutenants.states import Outcome, Status
from reef_site.accounts import signin_links
from reef_site.accounts.sessions import USED_AT
from reef_site.attention.listing import count_rows, listing
from reef_site.dashboard.recent_changes import recent_changes
from registry.rules.models import Firing
from tests.lieutenants.rows import enlist, process_of
from tests.reef_site.test_attention import create_failed, create_silent
from tests.vmtree.planted import set_long_uptime
from versconfig.models import Version
from vmtree import services as tree
from vmtree.services import NewNode

pytestmark = pytest.mark.django_db


@pytest.fixture
def operator() -> User:
    return signin_links.make_operator()


@pytest.fixture
def client(operator: User) -> Client:
    client = Client()
    client.force_login(operator)
    return client


def test_work_is_listed_longest_first_with_what_it_does_and_costs() -> None:
    now = timezone.now()
    enlist("idle")
    short = enlist("short", Status.WORKING, status_since=now - timedelta(minutes=1))
    long = enlist(
        "long",
        Status.WORKING,
        status_since=now - timedelta(minutes=10),
        waiting_for="tool bash (pytest -q)",
    )
    for text in ("first", "second"):
        Message.objects.create(lieutenant=long, text=text, mode="prompt", mode_asked="prompt")
    turn = {"process": process_of(long), "started_at": now}
    answer = Answer.objects.create(lieutenant=long, **turn)
    done = Answer.objects.create(lieutenant=long, outcome=Outcome.COMPLETED, **turn)
    for each, cost in ((answer, "0.5"), (done, "7")):
        used = {"input": 600, "output": 400, "cost": Decimal(cost), "at": now, "day": now.date()}
        Usage.objects.create(lieutenant=long, answer=each, **used)
    first, second = list_at_work(8)
    assert (first.lieutenant, second.lieutenant) == (long, short)
    assert (first.doing, second.doing) == ("runs bash (pytest -q)", "begins")
    assert (first.tokens, first.cost, first.queued) == (1000, Decimal("0.5"), 2)
    assert first.tokens_a_minute == 100
    assert list_at_work(1)[0].lieutenant == long


def test_home_shows_what_works_and_what_changed(client: Client) -> None:
    enlist("gina", Status.WORKING, waiting_for="the model")
    tree.create(NewNode("new", "swarm_vm", vm_id="vm-1"), by="tests")
    Version.objects.create(
        key="REEF_AGENT_MODEL", scope="fleet", actor="ada", what="set", clear="x"
    )
    executed = {"rule_name": "r", "event": "vm-silent", "action": "note", "subject": "vm-1"}
    for state in ("done", "failed", "dropped"):
        ended = timezone.now()
        Firing.objects.create(cause_at=ended, ended_at=ended, state=state, **executed)
    html = client.get("/").content.decode()
    text = " ".join(re.sub(r"<[^>]+>", " ", html).split())
    assert "Working now 1 gina working" in text
    assert "waits for the model" in text
    assert (
        "What changed in the last 8 hours +1 VM config: REEF_AGENT_MODEL set by ada Undo…" in text
    )
    assert "rules executed: 2 , 1 failed" in text


def test_changes_end_with_what_the_reader_has_seen(operator: User) -> None:
    tree.create(NewNode("new", "swarm_vm", vm_id="vm-1"), by="tests")
    long_ago = timezone.now() - timedelta(days=2)
    assert recent_changes(operator, long_ago).added == 1
    changes = recent_changes(operator, timezone.now())
    assert changes.is_marked
    assert not changes.any


def test_rule_executions_are_for_operators() -> None:
    viewer = User.objects.create_user("viola")
    now = timezone.now()
    executed = {"rule_name": "r", "event": "vm-silent", "action": "note", "subject": "vm-1"}
    Firing.objects.create(cause_at=now, ended_at=now, state="done", **executed)
    assert not recent_changes(viewer, now - timedelta(hours=1)).any


def test_count_is_that_of_the_list(client: Client, operator: User) -> None:
    set_long_uptime()
    for number in range(4):
        create_failed(f"same-{number}", 10 + number)
    create_failed("other", 5, error="no such model")
    for number in range(3):
        create_silent(f"box-{number}", 12)
    about = {"kind": "unknown", "provider": "vers", "text": "?", "proposal": "adopt"}
    Finding.objects.create(machine_id="m-1", **about)
    row = listing(operator, kind="finding").rows[0]
    seen = {"kind": "finding", "subject": row.subject, "cause": row.cause}
    assert client.get("/attention/count").json() == {"count": 4}
    assert client.post("/attention/seen", seen).status_code == 302
    assert client.get("/attention/count").json() == {"count": 3}
    assert count_rows(operator) == listing(operator).count == 3


def test_hidden_windows_do_not_prolong_the_session(client: Client) -> None:
    session = client.session
    session[USED_AT] = 0
    session.save()
    client.get("/attention/count", headers={"Reef-Hidden": "1"})
    assert client.session[USED_AT] == 0
    client.get("/attention/count")
    assert client.session[USED_AT] > 0


def test_count_needs_a_sign_in() -> None:
    assert Client().get("/attention/count").status_code == 302


def test_all_rows_are_shown_on_demand(client: Client) -> None:
    for number in range(24):
        create_failed(f"each-{number}", number, error=f"its own problem {number}")
    html = client.get("/").content.decode()
    assert html.count("data-need>") == 20
    assert "4 more" in html
    assert client.get("/?all=1").content.decode().count("data-need>") == 24
