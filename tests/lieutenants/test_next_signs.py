"""When the next sign is due: declared by agents and people, or expected by settings."""

from __future__ import annotations

import html
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.utils import timezone

from lieutenants.attention import find_lieutenants
from lieutenants.models import Lieutenant
from lieutenants.states import Status
from reef_site.audit.models import Record
from tests.conftest import Api
from tests.lieutenants.questions.test_question_tools import call
from tests.lieutenants.questions.test_questions_api import as_, lieutenant
from tests.lieutenants.rows import enlist, page
from tests.reef_site.test_attention import minutes_ago, panel

pytestmark = pytest.mark.django_db

AT = "/lieutenant/lieutenants/ada"
REASON = "the tests run until 14:30"
SILENT = {"waiting_for": "the model", "stall_limit_seconds": 0}


def at_work(name: str = "ada", minutes: int = 30, **fields: Any) -> Lieutenant:
    """Return a lieutenant that works, silent for so many minutes."""
    since = {"status_since": minutes_ago(90), "last_activity_at": minutes_ago(minutes)}
    return lieutenant(name, **{"status": Status.WORKING, **SILENT, **since, **fields})


def declared(api: Api, **body: Any) -> Any:
    return put(api, f"{AT}/next-sign", {"reason": REASON, **body})


def put(api: Api, path: str, body: dict[str, Any]) -> Any:
    return api.client.put(path, body, content_type="application/json")


def patch(api: Api, path: str, body: dict[str, Any]) -> Any:
    return api.client.patch(path, body, content_type="application/json")


def let_it_pass(minutes: int = 5) -> None:
    """Make what was declared due so many minutes ago."""
    Lieutenant.objects.update(
        next_sign_at=minutes_ago(minutes), next_sign_late_at=minutes_ago(minutes)
    )


def test_declared_silence_is_no_problem_until_it_has_passed(api: Api, operator: Client) -> None:
    at_work()
    assert api.get(AT).json()["stalled"] is True
    assert "ada stalled" in panel(operator)

    answer = declared(api, seconds=1800, graceSeconds=120)
    assert answer.status_code == 200
    sign = answer.json()["nextSign"]
    due, late = (datetime.fromisoformat(sign[name]) for name in ("at", "lateAt"))
    assert timedelta(minutes=29) < due - timezone.now() <= timedelta(minutes=30)
    assert late - due == timedelta(minutes=2)
    assert (sign["reason"], sign["overdue"]) == (REASON, False)
    assert api.get(AT).json()["stalled"] is False
    assert "ada" not in panel(operator)
    assert REASON in page(operator, "/lieutenants/ada/")
    assert REASON in page(operator, "/lieutenants/")

    let_it_pass()
    assert api.get(AT).json()["nextSign"]["overdue"] is True
    shown = panel(operator)
    assert "ada overdue 5 min ago" in shown
    assert f"no sign, though it was due: {REASON} (waiting for the model)" in shown
    assert '<span class="status is-stalled">overdue</span>' in page(operator, "/lieutenants/")


@pytest.mark.parametrize(
    ("fields", "is_overdue"),
    [
        # The grace is not over.
        ({"next_sign_late_at": timedelta(minutes=1)}, False),
        # It has given a sign since then.
        ({"last_activity_at": timedelta(minutes=-1)}, False),
        # A running tool speaks, but its agent does not.
        (
            {
                "waiting_for": "tool bash (pytest)",
                "waiting_since": timedelta(minutes=-40),
                "last_activity_at": timedelta(0),
            },
            True,
        ),
        # A person is asked, and that is an item of its own.
        ({"waiting_for": "a person to answer “Sure?”"}, False),
        ({"status": Status.PAUSED}, False),
    ],
)
def test_only_a_missing_sign_of_the_agent_itself_is_overdue(
    api: Api, fields: dict[str, Any], is_overdue: bool
) -> None:
    at_work()
    declared(api, seconds=60)
    let_it_pass()
    now = timezone.now()
    moved = {
        key: now + each if isinstance(each, timedelta) else each for key, each in fields.items()
    }
    Lieutenant.objects.update(**moved)
    sign = api.get(AT).json().get("nextSign")
    assert (sign is not None and sign["overdue"]) is is_overdue


def test_the_end_of_the_turn_and_a_withdrawal_end_it(api: Api) -> None:
    row = at_work()
    declared(api, seconds=60)
    assert "nextSign" not in api.delete(f"{AT}/next-sign").json()
    assert api.delete(f"{AT}/next-sign").status_code == 200
    declared(api, seconds=60)
    row.refresh_from_db()
    row.move(Status.IDLE, reason="done")
    found = Lieutenant.objects.get()
    assert (found.next_sign_at, found.next_sign_reason, found.next_sign_by) == (None, "", "")


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ({}, "at: give either at or seconds"),
        ({"seconds": 5, "at": "2030-01-01T00:00:00Z"}, "at: give either at or seconds"),
        ({"at": "2020-01-01T00:00:00Z"}, "at: must be in the future, at most seven days ahead"),
        ({"at": "2096-01-01T00:00:00Z"}, "at: must be in the future, at most seven days ahead"),
        ({"at": 5}, "at: must be a time"),
        ({"seconds": 0}, "seconds: must be a whole number from 1 to 604800"),
        ({"seconds": 9, "reason": " "}, "reason is required"),
        ({"seconds": 9, "reason": "x" * 501}, "reason: 1 to 500 characters are needed"),
        ({"seconds": 9, "graceSeconds": -1}, "graceSeconds: must be a whole number"),
        ({"second": 9}, "second: not known; did you mean seconds?"),
    ],
)
def test_wrong_declarations_are_refused(api: Api, body: dict[str, Any], error: str) -> None:
    at_work()
    answer = declared(api, **body)
    assert answer.status_code == 400
    assert answer.json()["error"].startswith(error)
    assert Lieutenant.objects.get().next_sign_at is None


@pytest.mark.parametrize(
    ("status", "reason"), [(Status.PAUSED, "does not run"), (Status.STARTING, "is starting")]
)
def test_who_does_not_run_declares_nothing(api: Api, status: Status, reason: str) -> None:
    at_work(status=status)
    answer = declared(api, seconds=9)
    assert (answer.status_code, answer.json()["error"]) == (400, f"Lieutenant 'ada' {reason}")
    assert (
        put(api, "/lieutenant/lieutenants/bob/next-sign", {"seconds": 9, "reason": "x"}).status_code
        == 404
    )


def test_agents_declare_for_themselves_and_those_below(api: Api) -> None:
    ada = at_work()
    bea = lieutenant("bea", ada.pk, status=Status.WORKING)
    done = call(as_(ada), "reef_next_sign", seconds=7200, reason=REASON)
    assert done["isError"] is False
    assert "ada: the next sign is due at " in done["text"]
    assert "One tool call may still run for 1 h only." in done["text"]
    ada.refresh_from_db()
    status = call(as_(ada), "reef_lt_status")["text"]
    assert "  Waiting for: the model\n  Next sign: due 20" in status
    assert (ada.next_sign_reason, ada.next_sign_by) == (REASON, f"node {ada.pk}")
    assert call(as_(ada), "reef_next_sign", name="bea", seconds=60, reason="x")["isError"] is False
    refused = call(as_(bea), "reef_next_sign", name="ada", seconds=60, reason="x")
    assert refused["isError"] is True
    assert declared(as_(bea), seconds=60).status_code == 403
    assert call(as_(ada), "reef_next_sign", withdraw=True)["text"] == "ada: no sign is declared."
    assert Lieutenant.objects.get(name="ada").next_sign_at is None
    assert call(api, "reef_next_sign", seconds=9, reason="x")["isError"] is True
    assert Record.objects.filter(target__startswith="reef_next_sign").exists()


def in_minutes(minutes: int) -> str:
    at = timezone.localtime() + timedelta(minutes=minutes)
    return at.strftime("%Y-%m-%dT%H:%M")


def test_people_declare_and_withdraw_a_sign_on_the_page(operator: Client) -> None:
    at_work()
    path = "/lieutenants/ada/next-sign"
    assert f'href="{path}"' in page(operator, "/lieutenants/ada/")
    assert "Leave empty" in page(operator, path)
    given = {"at": in_minutes(90), "reason": REASON, "grace": "120"}
    assert operator.post(path, given).status_code == 302
    row = Lieutenant.objects.get()
    assert row.next_sign_at is not None
    assert row.next_sign_late_at == row.next_sign_at + timedelta(minutes=2)
    assert timezone.localtime(row.next_sign_at).strftime("%Y-%m-%dT%H:%M") == given["at"]
    assert (row.next_sign_reason, row.stalled) == (REASON, False)

    shown = page(operator, path)
    assert f'value="{given["at"]}"' in shown
    assert f'value="{REASON}"' in shown
    shown = page(operator, "/lieutenants/ada/")
    assert REASON in shown
    withdraw = f"{path}/withdraw"
    assert f'action="{withdraw}"' in shown
    assert operator.get(withdraw).status_code == 405
    assert operator.post(withdraw).status_code == 302
    row = Lieutenant.objects.get()
    assert (row.next_sign_at, row.next_sign_reason, row.stalled) == (None, "", True)
    assert f'action="{withdraw}"' not in page(operator, "/lieutenants/ada/")


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ({"at": "14:30"}, "Enter a valid date/time."),
        ({"at": ""}, "This field is required."),
        ({"at": in_minutes(-5)}, "must be in the future, at most seven days ahead"),
        ({"at": in_minutes(8 * 24 * 60)}, "must be in the future, at most seven days ahead"),
        ({"reason": " "}, "This field is required."),
        ({"reason": "x" * 501}, "at most 500 characters"),
        ({"grace": "-1"}, "greater than or equal to 0"),
    ],
)
def test_form_refuses_wrong_declarations(
    operator: Client, given: dict[str, str], error: str
) -> None:
    at_work()
    refused = operator.post(
        "/lieutenants/ada/next-sign", {"at": in_minutes(30), "reason": REASON, **given}
    )
    assert refused.status_code == 400
    assert error in refused.content.decode()
    assert Lieutenant.objects.get().next_sign_at is None


def test_form_says_that_a_paused_lieutenant_gives_no_sign(operator: Client) -> None:
    at_work(status=Status.PAUSED)
    given = {"at": in_minutes(30), "reason": REASON}
    refused = operator.post("/lieutenants/ada/next-sign", given)
    assert refused.status_code == 400
    assert "does not run" in html.unescape(refused.content.decode())
    assert 'id="next-sign"' not in page(operator, "/lieutenants/ada/")
    assert operator.post("/lieutenants/nobody/next-sign", given).status_code == 404


def test_read_only_accounts_declare_nothing(client: Client) -> None:
    at_work()
    client.force_login(User.objects.create_user("viola"))
    answer = client.put(
        f"{AT}/next-sign", {"seconds": 9, "reason": "x"}, content_type="application/json"
    )
    assert answer.status_code == 403
    path = "/lieutenants/ada/next-sign"
    assert 'name="reason"' not in page(client, path)
    given = {"at": in_minutes(30), "reason": REASON}
    assert client.post(path, given).status_code == 403
    assert client.post(f"{path}/withdraw").status_code == 403
    assert Lieutenant.objects.get().next_sign_at is None


def test_settings_expect_a_sign_in_each_period(api: Api, operator: Client) -> None:
    created = {"status_since": minutes_ago(90), "last_activity_at": minutes_ago(30)}
    enlist("ada", Status.IDLE, **created)
    assert "nextSign" not in api.get(AT).json()
    answer = patch(api, AT, {"signPeriodSeconds": 1200, "signGraceSeconds": 300})
    assert answer.status_code == 200
    sign = answer.json()["nextSign"]
    assert (sign["declaredBy"], sign["overdue"]) == ("settings", True)
    assert "ada overdue 5 min ago" in panel(operator)
    # While it works, the period counts instead of the usual notice.
    Lieutenant.objects.update(
        status=Status.WORKING, waiting_for="the model", sign_period_seconds=1900
    )
    facts = api.get(AT).json()
    assert (facts["stalled"], facts["nextSign"]["overdue"]) == (False, False)
    assert "nextSign" not in patch(api, AT, {"signPeriodSeconds": 0}).json()


def test_settings_are_changed_on_the_page(operator: Client) -> None:
    enlist("ada")
    form = {"restart_policy": "never", "sign_period_seconds": "3600", "limit_action": "note"}
    assert operator.post("/lieutenants/ada/settings", form).status_code == 302
    row = Lieutenant.objects.get()
    assert (row.sign_period_seconds, row.sign_grace_seconds, row.limit_action) == (3600, 60, "note")
    html = page(operator, "/lieutenants/ada/")
    assert "every 1 h, with 1 min of grace" in " ".join(html.split())
    assert (
        operator.post("/lieutenants/ada/settings", {**form, "limit_action": "x"}).status_code == 400
    )
    bad = operator.post("/lieutenants/ada/settings", {**form, "sign_period_seconds": "-1"})
    assert bad.status_code == 400


@pytest.mark.parametrize(
    ("waiting_for", "kind"),
    [
        ("the model", "model"),
        ("the model to finish its answer", "model"),
        ("tool bash (make)", "tool"),
        ("a person to answer “Sure?”", "person"),
        ("the quota or rate limit of its model", "quota"),
        ("the agent's start", "other"),
        ("", None),
    ],
)
def test_what_is_waited_for_has_a_kind(api: Api, waiting_for: str, kind: str | None) -> None:
    at_work(waiting_for=waiting_for)
    assert api.get(AT).json().get("waitingKind") == kind


def test_quota_is_shown_with_its_end_and_is_no_stall(api: Api, operator: Client) -> None:
    until = timezone.now() + timedelta(hours=1)
    at_work(waiting_for="the quota or rate limit of its model", waiting_until=until)
    facts = api.get(AT).json()
    assert facts["stalled"] is False
    assert datetime.fromisoformat(facts["waitingUntil"]) - until < timedelta(seconds=1)
    for path in ("/lieutenants/ada/", "/lieutenants/"):
        shown = " ".join(page(operator, path).split())
        assert "waiting for the quota or rate limit of its model until <time" in shown


def test_tool_near_its_limit_needs_somebody(api: Api, operator: Client) -> None:
    tool: dict[str, Any] = {"waiting_for": "tool bash (pytest)", "tool_limit_seconds": 3600}
    row = at_work(minutes=0, waiting_since=minutes_ago(30), **tool)
    assert "ada" not in panel(operator)
    Lieutenant.objects.update(waiting_since=minutes_ago(50))
    shown = panel(operator)
    assert "ada near its limit 50 min ago" in shown
    assert "tool bash (pytest) reaches its limit, and its answer is aborted then" in shown
    end = datetime.fromisoformat(api.get(AT).json()["limitAt"])
    assert timedelta(minutes=9) < end - timezone.now() < timedelta(minutes=11)
    html = " ".join(page(operator, "/lieutenants/").split())
    assert "last output <time" in html
    assert ", then aborted" in html
    Lieutenant.objects.filter(pk=row.pk).update(limit_action="note")
    assert "reaches its limit, which is only noted" in panel(operator)


@pytest.mark.parametrize(
    ("fields", "label"),
    [
        ({"waiting_since": minutes_ago(50), "tool_limit_seconds": 3600}, "near its limit"),
        (
            {"waiting_since": minutes_ago(50), "tool_limit_seconds": 0}
            | {"next_sign_at": minutes_ago(5), "next_sign_late_at": minutes_ago(5)},
            "overdue",
        ),
    ],
)
def test_tool_that_prints_hides_no_problem(fields: dict[str, Any], label: str) -> None:
    # Activity after the time of the search, as of a tool that prints all the time.
    printed = {"last_activity_at": timezone.now() + timedelta(minutes=1)}
    enlist("ada", Status.WORKING, waiting_for="tool bash (pytest)", **printed, **fields)
    (item,) = find_lieutenants()
    assert item.label == label


def test_limits_have_their_defaults_in_config(api: Api) -> None:
    ada = lieutenant("ada")
    for key, value in {
        "REEF_TOOL_SECONDS": "77",
        "REEF_LIMIT_ACTION": "note",
        "REEF_SIGN_PERIOD_SECONDS": "600",
    }.items():
        answer = put(api, f"/vers-config/{key}", {"value": value, "vm": ada.pk})
        assert answer.status_code in (200, 201), answer.content
    changes = {"toolLimitSeconds": None, "limitAction": None, "signPeriodSeconds": None}
    facts = patch(api, AT, changes).json()
    assert (facts["toolLimitSeconds"], facts["limitAction"], facts["signPeriodSeconds"]) == (
        77,
        "note",
        600,
    )
    enlist("bob", Status.IDLE)
    facts = patch(api, "/lieutenant/lieutenants/bob", changes).json()
    assert (facts["toolLimitSeconds"], facts["limitAction"]) == (3600, "abort")
    bad = put(api, "/vers-config/REEF_LIMIT_ACTION", {"value": "explode"})
    assert bad.status_code == 400


@pytest.mark.parametrize("is_own", [False, True])
def test_secrets_in_reasons_are_covered(api: Api, is_own: bool) -> None:
    ada = lieutenant("ada", status=Status.WORKING)
    # What was read before the secret is stored counts no more.
    declared(api, seconds=60)
    secret = {"value": "sk-very-secret-value-123"} | ({"vm": ada.pk} if is_own else {})
    assert put(api, "/vers-config/OPENAI_API_KEY", secret).status_code in (200, 201)
    answer = declared(api, seconds=60, reason="uses sk-very-secret-value-123 now")
    assert "very-secret" not in answer.json()["nextSign"]["reason"]
