"""A lieutenant's page: transcript, facts and actions."""

from __future__ import annotations

import re
from datetime import timedelta
from decimal import Decimal

import pytest
from django.conf import settings
from django.test import Client
from django.utils import timezone

from lieutenants.models import (
    Answer,
    Chunk,
    Lieutenant,
    Message,
    Move,
    Process,
)
from lieutenants.states import MessageState, Outcome, Status
from reef_site.accounts import signin_links
from tests.lieutenants.rows import Told, block, enlist, page, process_of, use

pytestmark = pytest.mark.django_db

EVIL = "<script>alert('x')</script>\"' onload=\"1"
ESCAPED = "&lt;script&gt;alert(&#x27;x&#x27;)&lt;/script&gt;"
SCRIPT = {"Reef-Script": "1"}


# -- the transcript ------------------------------------------------------------


def test_the_transcript_shows_each_piece_as_what_it_is(operator: Client) -> None:
    told = Told(enlist())
    answer = told.open_answer()
    told.entry("user", "  indented\n*not* Markdown")
    told.entry("thinking", "hm")
    said = told.entry("text", "It is **done**: `x < y`")
    call = told.call("c1", command="ls -la")
    result = told.result("c1", "total 0\n<b>")
    error = told.entry("error", "429 overloaded", is_error=True)
    paid = told.entry("usage", data={"input": 900, "output": 30, "cost": 0.5, "model": "opus"})
    html = page(operator, "/lieutenants/ada/")
    assert "  indented\n*not* Markdown" in html
    assert "<strong>done</strong>: <code>x &lt; y</code>" in block(html, said)
    tool = block(html, call)
    assert "ls -la" in tool
    assert "total 0\n&lt;b&gt;" in tool
    assert "is-done" in tool
    assert f'id="e{result.pk}"' not in html
    assert "is-error" in block(html, error)
    assert "900 in · 30 out · $0.50 · opus" in " ".join(block(html, paid).split())
    assert "close" not in html[html.index('id="blocks"') : html.index("</section>")]

    use(told.lieutenant, answer=answer, cost=Decimal(2))
    Answer.objects.update(outcome=Outcome.COMPLETED, ended_at=answer.started_at + timedelta(61))
    html = page(operator, "/lieutenants/ada/")
    assert html.count('class="close is-completed"') == 1
    assert "$2.00" in block(html, paid)


def test_what_is_being_said_is_shown_up_to_the_pages_number(operator: Client) -> None:
    told = Told(enlist(status=Status.WORKING))
    said = told.entry("text", final=False, block=0)
    told.chunk(said, "one ")
    told.chunk(said, "**two** ")
    # Committed after the page read its number: the stream brings it.
    Chunk.objects.create(
        lieutenant=told.lieutenant, entry=said, rev=told.lieutenant.rev + 1, text="three"
    )
    html = page(operator, "/lieutenants/ada/")
    assert f'data-rev="{told.lieutenant.rev}"' in html
    assert "<p>one <strong>two</strong></p>" in block(html, said)
    assert "data-open" in block(html, said)
    assert "three" not in html


def test_a_running_tool_shows_its_output_so_far(operator: Client) -> None:
    told = Told(enlist(status=Status.WORKING))
    call = told.call("c1", command="make")
    told.result("c1", "half of it", final=False)
    html = block(page(operator, "/lieutenants/ada/"), call)
    assert "is-running" in html
    assert "half of it" in html


def test_long_output_is_shortened_and_stands_whole_elsewhere(operator: Client) -> None:
    told = Told(enlist())
    text = "a" * 15_000 + "MIDDLE" + "z" * 15_000
    call = told.call("c1", command="cat")
    result = told.result("c1", text)
    html = block(page(operator, "/lieutenants/ada/"), call)
    assert "MIDDLE" not in html
    assert "10,006 characters left out" in html
    whole = operator.get(f"/lieutenants/by-id/{told.lieutenant.pk}/_text/{result.pk}")
    assert b"".join(whole).decode() == text
    assert whole["Content-Type"].startswith("text/plain")
    assert whole["X-Content-Type-Options"] == "nosniff"


def test_earlier_entries_come_page_by_page_each_once(operator: Client) -> None:
    told = Told(enlist())
    for number in range(130):
        told.entry("text", f"number {number}.")
        told.call(f"c{number}", command="x")
        told.result(f"c{number}", "y")
    base = f"/lieutenants/by-id/{told.lieutenant.pk}/_transcript"
    html = page(operator, base)
    seen: list[str] = []
    for _ in range(10):
        seen = re.findall(r'<article [^>]*id="e(\d+)"', html) + seen
        more = re.search(r'data-url="([^"]+before=[^"]+)"', html)
        if not more:
            break
        html = page(operator, more[1])
    assert len(set(seen)) == 260
    assert len(seen) - len(set(seen)) <= 4, "only calls cut off by a page's edge come twice"
    assert "number 129." in page(operator, "/lieutenants/ada/")
    assert page(operator, f"{base}?before=junk") == page(operator, base)


def test_entries_are_fetched_as_blocks(operator: Client) -> None:
    told = Told(enlist())
    first = told.entry("text", "first")
    call = told.call("c1", command="x")
    result = told.result("c1", "y")
    other = Told(enlist("bea")).entry("text", "not yours")
    base = f"/lieutenants/by-id/{told.lieutenant.pk}/_entries"
    html = page(operator, f"{base}?ids={first.pk},{result.pk},{other.pk},x,99999")
    assert re.findall(r'<article [^>]*id="e(\d+)"', html) == [str(first.pk), str(call.pk)]
    assert f'data-result="{result.pk}"' in html
    assert page(operator, base).strip() == ""


def test_calls_of_the_same_id_in_two_processes_stay_apart(operator: Client) -> None:
    told = Told(enlist())
    one = told.call("call_1", command="first command")
    told.result("call_1", "first output")
    Process.objects.update(ended_at=timezone.now())
    told.process = process_of(told.lieutenant)
    two = told.call("call_1", command="second command")
    told.result("call_1", "second output")
    html = page(operator, "/lieutenants/ada/")
    assert "first output" in block(html, one)
    assert "second output" in block(html, two)
    assert "first output" not in block(html, two)


# -- facts and messages -----------------------------------------------------------


def test_the_side_shows_process_usage_messages_and_moves(operator: Client) -> None:
    ada = enlist(restart_policy="on-failure", restarts=2, idle_limit_minutes=15, folder="/srv/x")
    process_of(ada, stderr="last words")
    evidence = {"command": "prompt", "success": False, "error": "no <such> command"}
    Message.objects.create(
        lieutenant=ada,
        text="/x",
        mode="prompt",
        mode_asked="prompt",
        state=MessageState.REJECTED,
        evidence=evidence,
        actor="root token",
    )
    Message.objects.create(
        lieutenant=ada, text="later", mode="followUp", mode_asked="prompt", note="auto-queued"
    )
    Move.objects.create(lieutenant=ada, old="starting", new="idle", reason="ready", actor="reef")
    use(ada, cache_read=7000, cache_write=800)
    html = page(operator, "/lieutenants/ada/")
    for expected in (
        *("4321", "supervisor 4320", "/opt/pi (0.87.1)", "session.jsonl", "/srv/x", "on failure"),
        *("2 of 5 used", "after 15 min", "7,000", "800", "$0.0123", "last words"),
        *("no &lt;such&gt; command", "rejected", "root token", "auto-queued", "starting →"),
    ):
        assert expected in html, expected
    queue = html[html.index('id="queue"') : html.index("</section>", html.index('id="queue"'))]
    assert "later" in queue
    assert "/x" not in queue


@pytest.mark.parametrize(
    ("status", "verbs"),
    [
        (Status.STARTING, {"pause", "destroy"}),
        (Status.IDLE, {"pause", "restart", "destroy"}),
        (Status.WORKING, {"abort", "pause", "restart", "destroy"}),
        (Status.PAUSED, {"resume", "destroy"}),
        (Status.ERROR, {"pause", "restart", "destroy"}),
    ],
)
def test_buttons_are_those_that_the_status_allows(
    operator: Client, status: Status, verbs: set[str]
) -> None:
    enlist(status=status)
    assert set(re.findall(r'id="verb-(\w+)"', page(operator, "/lieutenants/ada/"))) == verbs


def test_a_message_is_sent_once_however_often_the_form_comes(operator: Client) -> None:
    enlist(status=Status.WORKING)
    form = {"message": "one\r\ntwo", "mode": "steer", "key": "k1"}
    for _ in range(2):
        assert operator.post("/lieutenants/ada/send", form)["Location"] == "/lieutenants/ada/"
    message = Message.objects.get()
    assert (message.text, message.mode, message.actor) == (
        "one\ntwo",
        "steer",
        signin_links.OPERATOR,
    )
    answer = operator.post("/lieutenants/ada/send", {**form, "key": "k2"}, headers=SCRIPT)
    assert answer.status_code == 200
    assert answer["Reef-Key"]
    assert 'id="queue"' in answer.content.decode()
    assert Message.objects.count() == 2


@pytest.mark.parametrize("status", [Status.PAUSED, Status.ERROR])
def test_message_can_start_the_agent(operator: Client, status: Status) -> None:
    enlist(status=status)
    form = {"message": " ", "key": "k", "start": "yes"}
    assert operator.post("/lieutenants/ada/send", form).status_code == 400
    assert Lieutenant.objects.get().status == status, "a refused message starts nothing"

    for _ in range(2):
        answer = operator.post("/lieutenants/ada/send", {**form, "message": "go on"})
        assert answer.status_code == 302
    assert Lieutenant.objects.get().status == Status.STARTING
    assert Message.objects.get().text == "go on"


def test_a_refused_message_keeps_its_text(operator: Client) -> None:
    enlist(status=Status.PAUSED)
    form = {"message": "dear <ada>", "mode": "followUp", "key": "k"}
    answer = operator.post("/lieutenants/ada/send", form)
    html = answer.content.decode()
    assert answer.status_code == 400
    assert "is paused. Resume it first." in html
    assert "dear &lt;ada&gt;</textarea>" in html
    assert re.search(r'value="followUp"\s+checked', html)

    spoken = operator.post("/lieutenants/ada/send", form, headers=SCRIPT)
    assert spoken.status_code == 400
    assert spoken.content.decode() == "Lieutenant 'ada' is paused. Resume it first."
    assert spoken["Content-Type"].startswith("text/plain")
    assert not Message.objects.exists()


@pytest.mark.parametrize(
    ("form", "status"),
    [
        ({"message": "  "}, 400),
        ({"message": "x", "mode": "shout"}, 400),
        ({"message": "nul \0"}, 400),
        ({"message": "x" * (settings.MAX_MESSAGE_BYTES + 1)}, 413),
        ({"message": "x", "key": "k" * 300}, 400),
    ],
)
def test_nonsense_is_refused_in_words(operator: Client, form: dict[str, str], status: int) -> None:
    enlist()
    assert operator.post("/lieutenants/ada/send", form).status_code == status
    assert not Message.objects.exists()


# -- what is asked of it ---------------------------------------------------------------------


def test_pause_resume_restart_abort(operator: Client) -> None:
    ada = enlist()

    def ask(verb: str) -> str:
        answer = operator.post(f"/lieutenants/ada/{verb}")
        assert answer["Location"] == "/lieutenants/ada/"
        ada.refresh_from_db()
        return ada.status

    assert ask("pause") == Status.PAUSED
    assert ask("resume") == Status.STARTING
    Lieutenant.objects.update(status=Status.IDLE)
    assert ask("restart") == Status.STARTING
    Lieutenant.objects.update(status=Status.WORKING)
    assert ask("abort") == Status.WORKING
    assert ada.abort_asked_at is not None
    assert {move.actor for move in ada.moves.all()} == {signin_links.OPERATOR}


def test_pausing_a_working_one_asks_first(operator: Client) -> None:
    ada = enlist(status=Status.WORKING)
    asked = operator.post("/lieutenants/ada/pause")
    assert asked.status_code == 400
    assert "is working" in asked.content.decode()
    assert 'name="sure" value="yes"' in asked.content.decode()
    ada.refresh_from_db()
    assert ada.status == Status.WORKING

    operator.post("/lieutenants/ada/pause", {"sure": "yes"})
    ada.refresh_from_db()
    assert ada.status == Status.PAUSED


def test_destroying_asks_first_and_keeps_the_transcript(operator: Client) -> None:
    told = Told(enlist())
    told.entry("text", "my last words")
    assert "cannot be brought back" in " ".join(page(operator, "/lieutenants/ada/destroy").split())
    told.lieutenant.refresh_from_db()
    assert told.lieutenant.status == Status.IDLE

    form = {"sure": "yes", "lieutenant": told.lieutenant.pk}
    answer = operator.post("/lieutenants/ada/destroy", form, follow=True)
    html = answer.content.decode()
    assert answer.redirect_chain[-1][0] == f"/lieutenants/by-id/{told.lieutenant.pk}/"
    assert "my last words" in html
    assert "destroyed (local, 0 tasks completed)" in html
    assert 'id="composer"' not in html
    assert "data-follow" not in html


def test_a_page_left_open_does_not_destroy_a_namesake(operator: Client) -> None:
    old = enlist(status=Status.DESTROYED)
    new = enlist()
    answer = operator.post("/lieutenants/ada/destroy", {"sure": "yes", "lieutenant": old.pk})
    assert answer.status_code == 404
    new.refresh_from_db()
    assert new.status == Status.IDLE
    assert operator.get(f"/lieutenants/by-id/{new.pk}/")["Location"] == "/lieutenants/ada/"
    assert operator.get(f"/lieutenants/by-id/{old.pk}/").status_code == 200


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/lieutenants/ada/resume", 400),
        ("/lieutenants/ada/abort", 400),
        ("/lieutenants/nobody/pause", 404),
        ("/lieutenants/ada/dance", 404),
    ],
)
def test_what_cannot_be_done_is_said_with_its_status(
    operator: Client, path: str, status: int
) -> None:
    enlist()
    answer = operator.post(path)
    assert answer.status_code == status
    assert 'role="alert"' in answer.content.decode()


def test_who_is_not_there_is_not_found(operator: Client) -> None:
    assert "nobody" in page(operator, "/lieutenants/nobody/", 404)
    html = {"Accept": "text/html"}
    assert "Page not found" in page(operator, "/lieutenants/by-id/X/", 404, headers=html)
    assert operator.get("/lieutenants/by-id/X/_now").status_code == 404
