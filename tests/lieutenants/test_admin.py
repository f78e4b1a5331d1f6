"""The admin: what it shows, what it lets nobody do, and its actions."""

from __future__ import annotations

import re
from decimal import Decimal

import pytest
from django.contrib.auth.models import Permission, User
from django.contrib.messages import get_messages
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from lieutenants.models import Entry, Lieutenant, Message, Move, Usage
from lieutenants.states import Status
from tests.lieutenants.rows import Told, enlist, page, use

pytestmark = pytest.mark.django_db

LISTS = ("lieutenant", "message", "entry", "answer", "usage", "move", "process", "lifesign")


def list_of(name: str) -> str:
    return f"/admin/lieutenants/{name}/"


def do(client: Client, verb: str, *lieutenants: Lieutenant, **fields: str) -> list[str]:
    """Run an action; the texts of what it reports."""
    form = {"action": f"{verb}_selected", "_selected_action": [each.pk for each in lieutenants]}
    answer = client.post(list_of("lieutenant"), {**form, **fields})
    said = [str(message) for message in get_messages(answer.wsgi_request)]
    client.get("/admin/")  # shows them, so that the next action's stand alone
    return said


def fill(count: int) -> None:
    told = Told(enlist(f"full{count}"))
    told.open_answer()
    for number in range(count):
        told.entry("text", f"words {number}")
        use(told.lieutenant)
        Message.objects.create(
            lieutenant=told.lieutenant, text="t", mode="prompt", mode_asked="prompt"
        )
        Move.objects.create(lieutenant=told.lieutenant, old="idle", new="working", reason="r")


@pytest.mark.parametrize("name", LISTS)
def test_lists_use_a_constant_number_of_queries(operator: Client, name: str) -> None:
    def statements() -> int:
        with CaptureQueriesContext(connection) as seen:
            page(operator, list_of(name))
        return len(seen)

    fill(2)
    few = statements()
    fill(60)
    assert statements() == few
    assert few <= 13


@pytest.mark.parametrize("name", LISTS)
def test_lists_can_be_searched(operator: Client, name: str) -> None:
    fill(2)
    html = page(operator, f"{list_of(name)}?q=full2")
    assert "0 results" not in html or name == "lifesign"
    assert page(operator, f"{list_of(name)}?q='%22%3Cscript%3E")


def test_history_is_read_only(operator: Client) -> None:
    fill(1)
    entry = Entry.objects.get()
    html = page(operator, f"{list_of('entry')}{entry.pk}/change/")
    assert "words 0" in html
    assert 'name="_save"' not in html
    for path in ("change/", "delete/"):
        answer = operator.post(f"{list_of('entry')}{entry.pk}/{path}", {"text": "never said"})
        assert answer.status_code == 403
    for name in LISTS:
        assert operator.get(f"{list_of(name)}add/").status_code == 403
    entry.refresh_from_db()
    assert entry.text == "words 0"


def test_only_settings_of_a_lieutenant_can_be_edited(operator: Client) -> None:
    ada = enlist()
    path = f"{list_of('lieutenant')}{ada.pk}/change/"
    html = page(operator, path)
    assert f"/admin/lieutenants/entry/?lieutenant__id__exact={ada.pk}" in html
    # Another process writes the row while the form is open.
    Lieutenant.objects.update(rev=7, status=Status.WORKING)
    form = {"restart_policy": "on-failure", "idle_limit_minutes": "", "stall_limit_seconds": "60"}
    form |= {"tool_limit_seconds": "0", "dialog_limit_seconds": "60", "limit_action": "note"}
    form |= {"sign_period_seconds": "0", "sign_grace_seconds": "60"}
    assert operator.post(path, {**form, "status": "destroyed", "name": "eve"}).status_code == 302
    ada.refresh_from_db()
    assert (ada.restart_policy, ada.stall_limit_seconds) == ("on-failure", 60)
    assert ada.tool_limit_seconds == 0
    assert (ada.rev, ada.status, ada.name) == (7, Status.WORKING, "ada")
    assert operator.get(f"{list_of('lieutenant')}{ada.pk}/delete/").status_code == 403


def test_an_action_reports_each_outcome(operator: Client) -> None:
    ada, bea = enlist("ada"), enlist("bea", Status.PAUSED)
    gone = enlist("ada", Status.DESTROYED)
    assert do(operator, "resume", ada, bea, gone) == [
        "ada: Lieutenant 'ada' is not paused (status: idle)",
        "bea: resuming.",
        "ada: was destroyed before",
    ]
    ada.refresh_from_db()
    bea.refresh_from_db()
    gone.refresh_from_db()
    assert (ada.status, bea.status, gone.status) == ("idle", "starting", "destroyed")


def test_pause_and_resume(operator: Client) -> None:
    ada = enlist()
    assert do(operator, "pause", ada) == ["ada: pausing; the session is kept."]
    assert do(operator, "resume", ada) == ["ada: resuming."]
    assert [move.new for move in ada.moves.all()] == [Status.STARTING, Status.PAUSED]
    assert {move.actor for move in ada.moves.all()} == {"admin"}


@pytest.mark.parametrize(
    ("verb", "status", "end"),
    [("destroy", Status.IDLE, Status.DESTROYED), ("pause", Status.WORKING, Status.PAUSED)],
)
def test_actions_that_interrupt_work_need_confirmation(
    operator: Client, verb: str, status: Status, end: Status
) -> None:
    ada = enlist(status=status, role="<script>")
    form = {"action": f"{verb}_selected", "_selected_action": [ada.pk]}
    html = operator.post(list_of("lieutenant"), form).content.decode()
    assert f'name="_selected_action" value="{ada.pk}"' in html
    ada.refresh_from_db()
    assert ada.status == status

    hidden = dict(re.findall(r'<input type="hidden" name="(?!csrf)(\w+)" value="([^"]*)"', html))
    operator.post(list_of("lieutenant"), hidden)
    ada.refresh_from_db()
    assert ada.status == end


def test_accounts_that_are_no_operators_command_nothing(client: Client) -> None:
    joe = User.objects.create_user("joe", is_staff=True)
    rights = Permission.objects.filter(content_type__app_label="lieutenants")
    joe.user_permissions.set(rights.filter(codename__in=("view_lieutenant", "change_lieutenant")))
    client.force_login(joe)
    ada = enlist()

    assert "an account reads the fleet" in do(client, "pause", ada)[0]
    ada.refresh_from_db()
    assert ada.status == Status.IDLE


def test_read_only_user_gets_no_actions(client: Client) -> None:
    looker = User.objects.create_user("looker", is_staff=True)
    looker.user_permissions.set(Permission.objects.filter(codename="view_lieutenant"))
    client.force_login(looker)
    ada = enlist()
    assert "destroy_selected" not in page(client, list_of("lieutenant"))
    do(client, "destroy", ada, sure="yes")
    ada.refresh_from_db()
    assert ada.status == Status.IDLE


def test_the_list_of_usage_sums_up_what_is_shown(operator: Client) -> None:
    ada = enlist()
    use(ada, provider="here", cost=Decimal("1.25"))
    use(ada, provider="here", cost=Decimal("0.50"))
    use(ada, provider="there", cost=Decimal(9))
    assert "2 calls · 2,400 in" in page(operator, f"{list_of('usage')}?provider=here")
    assert "<strong>$1.75</strong>" in page(operator, f"{list_of('usage')}?provider=here")
    assert Usage.objects.count() == 3


def test_admin_shows_times_as_the_other_pages(operator: Client) -> None:
    row = enlist()
    page = operator.get(list_of("lieutenant")).content.decode()
    assert f"{timezone.localtime(row.created_at):%Y-%m-%d %H:%M:%S}" in page
