"""Pages knocked at as a browser does it: what stands in them, and what they change."""

from __future__ import annotations

import re
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.conf import settings
from django.contrib.auth.models import User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from lieutenants.models import (
    Answer,
    Lieutenant,
    LifeSign,
    Message,
)
from lieutenants.states import MessageState, Outcome, Status
from reef_site.accounts import signin_links
from tests.lieutenants.rows import Told, enlist, page, use

pytestmark = pytest.mark.django_db

EVIL = "<script>alert('x')</script>\"' onload=\"1"
ESCAPED = "&lt;script&gt;alert(&#x27;x&#x27;)&lt;/script&gt;"
SCRIPT = {"Reef-Script": "1"}


# -- coming in ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    ["/", "/parts/", "/lieutenants/", "/lieutenants/_rows", "/lieutenants/_new"]
    + [f"/lieutenants/by-id/X/{each}" for each in ("", "_now", "_transcript", "_entries")]
    + ["/lieutenants/by-id/X/_text/1", "/lieutenants/ada/", "/lieutenants/ada/destroy"],
)
def test_anonymous_users_are_redirected_to_sign_in(client: Client, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 302
    assert answer["Location"].startswith("/signin/?next=")


@pytest.mark.parametrize("path", ["send", "pause", "destroy", "abort"])
def test_anonymous_users_cannot_change_anything(client: Client, path: str) -> None:
    ada = enlist()
    client.post(f"/lieutenants/ada/{path}", {"message": "hello", "sure": "yes"})
    ada.refresh_from_db()
    assert ada.status == Status.IDLE
    assert not Message.objects.exists()


def test_a_sign_in_link_lets_in_once(client: Client) -> None:
    link = signin_links.make_signin_link("http://testserver")
    assert client.head(link).status_code == 405, "a look ahead must not use it up"
    assert client.get(link)["Location"] == "/"
    assert "Home" in page(client, "/")

    again = Client().get(link)
    assert again.status_code == 410
    assert "python3 manage.py signin" in again.content.decode()


def test_the_sign_in_page_takes_passwords_and_explains_links(client: Client) -> None:
    User.objects.create_user("grace", password="hopper-1952")
    html = page(client, "/signin/?next=/lieutenants/")
    assert "python3 manage.py signin" in html
    wrong = client.post("/signin/", {"username": "grace", "password": "x"})
    assert 'role="alert"' in wrong.content.decode()
    right = {"username": "grace", "password": "hopper-1952", "next": "/lieutenants/"}
    assert client.post("/signin/", right)["Location"] == "/lieutenants/"
    assert client.get("/signin/")["Location"] == "/"
    assert client.post("/signin/", {**right, "next": "//evil.example/"})["Location"] == "/"


def test_signing_out_takes_a_post(operator: Client) -> None:
    assert operator.get("/signout/").status_code == 405
    assert operator.post("/signout/")["Location"] == "/signin/"
    assert operator.get("/").status_code == 302


def test_writes_need_the_forms_token() -> None:
    client = Client(enforce_csrf_checks=True)
    client.force_login(signin_links.make_operator())
    enlist()
    answer = client.post("/lieutenants/ada/destroy", {"sure": "yes"})
    assert answer.status_code == 403
    assert "Please send that again" in answer.content.decode()
    assert Lieutenant.objects.get().status == Status.IDLE


def test_pages_allow_no_script_or_style_of_their_own(operator: Client) -> None:
    told = Told(enlist())
    told.entry("text", "| a |\n|--:|\n| b |")
    for path in ("/", "/lieutenants/", "/lieutenants/_new", "/lieutenants/ada/", "/signin/"):
        answer = operator.get(path, follow=True)
        policy = answer.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        html = answer.content.decode()
        assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\sstyle=|\son[a-z]+=\"", html)


# -- overview --------------------------------------------------------------------------------


def test_empty_list_shows_the_first_step(operator: Client) -> None:
    for path in ("/", "/lieutenants/"):
        html = page(operator, path)
        assert "Make the first one" in html
        assert "/lieutenants/_new" in html


def test_the_overview_shows_trouble_counts_cost_and_parts(operator: Client) -> None:
    failed = enlist("failed", Status.ERROR, error="The agent ended with exit code 3.\nboom")
    long_ago = timezone.now() - timedelta(hours=1)
    silent = {"last_activity_at": long_ago, "status_since": long_ago}
    enlist("silent", Status.WORKING, waiting_for="the model", **silent)
    enlist("busy", Status.WORKING)
    use(failed)
    use(failed, day=timezone.now().date() - timedelta(days=2), cost=Decimal(70))
    LifeSign.give("worker@here")
    html = page(operator, "/")
    assert "exit code 3" in html
    assert "waiting for the model" in html
    assert ">busy<" not in html.partition('id="working"')[0]
    assert "$0.0123" in html
    assert re.search(r'is-well">worker', html)
    assert ">database log<" in html
    assert re.search(r'is-error">follower</span>\s*<span class="soft">never seen', html)


def test_the_overview_says_how_to_mend_a_missing_agent(operator: Client, settings: Any) -> None:
    settings.PI_PATH = "/no/such/program"
    html = page(operator, "/")
    assert "No agent installed on this machine" in html
    assert "npm install -g" in html


def test_every_page_tells_of_the_demo_model(operator: Client, settings: Any) -> None:
    enlist()
    settings.DEMO = True
    for path in ("/", "/lieutenants/", "/lieutenants/_new", "/lieutenants/ada/", "/admin/"):
        assert "demo" in page(operator, path)
    settings.DEMO = False
    assert "demo" not in page(operator, "/")


# -- the list ----------------------------------------------------------------------------------


def test_a_row_shows_status_task_model_figures_and_machine(operator: Client) -> None:
    ada = enlist(model="anthropic/opus", status_since=timezone.now() - timedelta(minutes=5))
    for text in ("an older task", "fix the\n  flaky test"):
        Message.objects.create(lieutenant=ada, text=text, mode="prompt", mode_asked="prompt")
    refused = {"mode": "prompt", "mode_asked": "prompt", "state": MessageState.REJECTED}
    Message.objects.create(lieutenant=ada, text="nonsense", **refused)
    use(ada, input=12_000)
    html = page(operator, "/lieutenants/")
    for expected in ("fix the flaky test", "anthropic/opus", "12.0k", "$0.0123", settings.HOST):
        assert expected in html
    assert re.search(r"is-idle.*?5 min", html, re.DOTALL)
    assert "nonsense" not in html


def test_the_list_filters_by_status_and_words(operator: Client) -> None:
    enlist("ada")
    enlist("bea", Status.PAUSED, role="reads 100% of mail")
    enlist("old", Status.DESTROYED)

    def names(query: str) -> set[str]:
        html = page(operator, f"/lieutenants/_rows?{query}")
        return set(re.findall(r'id="to-\w+" href="[^"]+">(\w+)<', html))

    assert names("") == {"ada", "bea"}
    assert names("status=paused") == {"bea"}
    assert names("status=destroyed") == {"old"}
    assert names("q=100%25") == {"bea"}
    assert names("q=DA") == {"ada"}
    assert names("q=nobody") == set()
    assert names("status=nonsense&page=zzz&q=%00") == {"ada", "bea"}
    assert "Nothing matches" in page(operator, "/lieutenants/?q=nobody")


def test_hostile_texts_are_escaped(operator: Client) -> None:
    ada = enlist(role=EVIL, model=EVIL, error=EVIL, status=Status.ERROR, folder=EVIL)
    Message.objects.create(lieutenant=ada, text=EVIL, mode="prompt", mode_asked="prompt", note=EVIL)
    told = Told(ada)
    for kind in ("text", "user", "thinking", "error", "notice", "tool_call", "tool_result"):
        told.entry(kind, EVIL, tool=EVIL, call_id=f"{kind}{EVIL}", data={"arguments": {EVIL: EVIL}})
    for path in ("/", "/lieutenants/", f"/lieutenants/?q={EVIL}", "/lieutenants/ada/"):
        html = page(operator, path)
        assert "<script>alert" not in html
        assert ' onload="' not in html
        assert ESCAPED in html
    api = Client(headers={"authorization": f"Bearer {settings.ROOT_TOKEN}"})
    panel = page(api, "/lieutenant/_panel")
    assert "<script>" not in panel
    assert "&lt;script&gt;" in panel


def test_number_of_queries_is_constant(operator: Client) -> None:
    def statements(path: str) -> int:
        with CaptureQueriesContext(
            connection,
        ) as seen:
            page(operator, path)
        # Now and then a request also writes when this session was last used.
        return len([each for each in seen if each["sql"].startswith("SELECT")])

    def fill(first: int, last: int) -> None:
        for number in range(first, last):
            # Silence of more than a second is looked at, from the first page on.
            heard = timezone.now() - timedelta(seconds=5)
            each = enlist(f"l{number}", Status.WORKING, last_activity_at=heard)
            Message.objects.create(lieutenant=each, text="t", mode="prompt", mode_asked="prompt")
            use(each)

    def talk(told: Told, times: int) -> None:
        for _ in range(times):
            answer = told.open_answer()
            told.entry("user", "do it")
            number = told.call(f"c{answer.pk}", command="ls").pk
            told.result(f"c{answer.pk}", f"done {number}")
            Answer.objects.filter(pk=answer.pk).update(
                outcome=Outcome.COMPLETED, ended_at=timezone.now()
            )
            use(told.lieutenant, answer=answer)

    fill(0, 3)
    told = Told(Lieutenant.objects.get(name="l0"))
    talk(told, 2)
    # Nobody looks at the page of this one, so that its turn stays unread.
    talk(Told(Lieutenant.objects.get(name="l1")), 1)
    now = f"/lieutenants/by-id/{told.lieutenant.pk}/_now"
    paths = ("/", "/lieutenants/", "/lieutenants/l0/", now)

    def look() -> list[int]:
        # The first look at an answer notes that it was read.
        for path in paths:
            page(operator, path)
        return [statements(path) for path in paths]

    few = look()
    fill(3, 40)
    talk(told, 20)
    assert look() == few
    assert max(few) < 66


def test_a_long_list_has_pages(operator: Client) -> None:
    Lieutenant.objects.bulk_create(
        Lieutenant(name=f"l{number}", role="r", host="h", status=Status.IDLE)
        for number in range(250)
    )
    html = page(operator, "/lieutenants/?page=3&q=l")
    assert html.count('<tr id="row-') == 50
    assert "201–250 of 250" in html
    assert "?page=2&amp;q=l" in html


# -- making one ----------------------------------------------------------------------------------


FORM = {"name": "ada", "role": "computes", "restart_policy": "on-failure"}


def test_form_creates_a_lieutenant(operator: Client) -> None:
    limits = {"idle_limit_minutes": "30", "stall_limit_seconds": "0", "directive": "be brief"}
    answer = operator.post("/lieutenants/_new", {**FORM, **limits, "model": "a/b"})
    assert answer["Location"] == "/lieutenants/ada/"
    ada = Lieutenant.objects.get()
    assert (ada.role, ada.model, ada.directive) == ("computes", "a/b", "be brief")
    assert (ada.restart_policy, ada.idle_limit_minutes, ada.stall_limit_seconds) == (
        *("on-failure", 30, 0),
    )
    assert ada.moves.get().actor == signin_links.OPERATOR


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("name", "", "required"),
        ("name", "../../etc", "letter or digit first"),
        ("name", "a b\nc", "letter or digit first"),
        ("name", "x" * 10_000, "1 to 64"),
        ("role", "  ", "required"),
        ("role", "nul\0", "ull characters"),
        ("model", "--exec", "dash"),
        ("folder", "relative/path", "absolute path"),
        ("idle_limit_minutes", "soon", "whole number"),
        ("idle_limit_minutes", "0", "greater than or equal to 1"),
        ("stall_limit_seconds", "-5", "greater than or equal to 0"),
        ("restart_policy", "always", "valid choice"),
    ],
)
def test_error_is_shown_at_its_field(operator: Client, field: str, value: str, words: str) -> None:
    answer = operator.post("/lieutenants/_new", {**FORM, field: value})
    html = answer.content.decode()
    assert answer.status_code == 400
    error = re.search(rf'id="id_{field}_error">([^<]*)', html)
    assert error
    assert words in error[1]
    assert 'aria-invalid="true"' in html
    assert not Lieutenant.objects.exists()


def test_input_is_kept_when_the_name_is_taken(operator: Client) -> None:
    enlist("ada")
    answer = operator.post("/lieutenants/_new", {**FORM, "directive": "x < y & z"})
    assert answer.status_code == 409
    html = answer.content.decode()
    assert "already exists" in html
    assert 'id="id_name_error"' in html
    assert "x &lt; y &amp; z" in html


def test_the_form_says_when_there_is_no_agent(operator: Client, settings: Any) -> None:
    settings.PI_PATH = "/no/such/program"
    answer = operator.post("/lieutenants/_new", FORM)
    assert answer.status_code == 503
    assert "which is no program" in answer.content.decode()
    assert not Lieutenant.objects.exists()
