"""Outcomes of last turns, unread marks of each person, and what finished since they looked."""

from __future__ import annotations

import html as markup
import re
from datetime import timedelta

import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from lieutenants.models import Answer, Lieutenant
from lieutenants.transcript.last_turns import last_turns
from tests.lieutenants.rows import Told, enlist, page
from vmtree.models import Node

pytestmark = pytest.mark.django_db


def end_turn(
    lieutenant: Lieutenant, outcome: str = "completed", *, minutes: float = 1, text: str = "done it"
) -> Answer:
    answer = Told(lieutenant).open_answer() if not lieutenant.processes.exists() else None
    at = timezone.now() - timedelta(minutes=minutes)
    if answer is None:
        process = lieutenant.processes.get()
        answer = Answer.objects.create(lieutenant=lieutenant, process=process, started_at=at)
    answer.outcome, answer.ended_at, answer.text = outcome, at, text
    answer.started_at = at - timedelta(seconds=22)
    answer.save()
    return answer


def finished(client: Client) -> str:
    """Return the text of the section of finished tasks."""
    html = client.get("/parts/").content.decode()
    found = re.search(
        r'<section class="panel" aria-labelledby="finished">.*?</section>', html, re.S
    )
    text = re.sub(r"<[^>]+>", " ", found[0]) if found else ""
    return " ".join(markup.unescape(text).split())


@pytest.fixture
def viewer() -> Client:
    client = Client()
    client.force_login(User.objects.create_user("viola"))
    return client


def test_newest_ended_turn_counts(django_user_model: type[User]) -> None:
    ada, bob, _ = enlist("ada"), enlist("bob"), enlist("new")
    end_turn(ada, "error", minutes=9)
    newest = end_turn(ada, minutes=5)
    Answer.objects.create(lieutenant=ada, process=ada.processes.get(), started_at=timezone.now())
    other = end_turn(bob, "aborted")
    found = last_turns([each.pk for each in Lieutenant.objects.all()])
    assert {pk: turn.pk for pk, turn in found.items()} == {ada.pk: newest.pk, bob.pk: other.pk}


def test_list_shows_last_outcome_and_what_is_new(operator: Client, viewer: Client) -> None:
    end_turn(enlist("ada"))
    end_turn(enlist("bob"), "error")
    html = page(operator, "/lieutenants/")
    assert html.count('class="unread"') == 2
    assert '<span class="outcome is-completed">done</span><span class="soft"> in 22 s' in html
    assert '<span class="outcome is-error">failed</span>' in html
    page(operator, "/lieutenants/ada/")
    assert page(operator, "/lieutenants/").count('class="unread"') == 1
    assert page(viewer, "/lieutenants/").count('class="unread"') == 2


def test_home_lists_what_finished_until_it_is_read(operator: Client, viewer: Client) -> None:
    ada, bob = enlist("ada"), enlist("bob")
    end_turn(ada, minutes=4, text="first")
    end_turn(ada, minutes=3, text="**tests** are `green` again:\n```\n1 passed\n```")
    end_turn(bob, "error", minutes=2)
    end_turn(enlist("old"), minutes=60 * 24 * 4)
    end_turn(enlist("gone", "destroyed"))
    shown = finished(operator)
    assert shown.startswith("Finished since you looked 2 ")
    assert shown.index("bob failed") < shown.index("ada done in 22 s · 3 min ago · 2 tasks")
    assert "tests are green again: 1 passed" in shown
    assert "old" not in shown
    assert operator.post(f"/lieutenants/by-id/{ada.pk}/_read").status_code == 302
    assert "ada" not in finished(operator)
    assert "ada" in finished(viewer)
    end_turn(ada, minutes=0, text="something else")
    assert "something else" in finished(operator)
    for client in (operator, viewer):
        assert client.post("/lieutenants/_read").status_code == 302
        assert finished(client) == ""
    end_turn(bob, minutes=-0.01)
    assert finished(operator).startswith("Finished since you looked 1 ")


def test_open_page_keeps_its_answers_read(operator: Client) -> None:
    ada = enlist("ada")
    page(operator, "/lieutenants/ada/")
    end_turn(ada, minutes=0)
    assert "ada" in finished(operator)
    page(operator, f"/lieutenants/by-id/{ada.pk}/_now")
    assert finished(operator) == ""


def test_tree_shows_the_last_outcome(operator: Client) -> None:
    ada = enlist("ada")
    Node.objects.create(vm_id=ada.pk, name="ada", category="lieutenant")
    end_turn(ada, "interrupted")
    assert '<span class="outcome is-interrupted">interrupted</span>' in page(operator, "/fleet/")


def test_number_of_statements_does_not_grow(operator: Client) -> None:
    def statements(path: str) -> int:
        with CaptureQueriesContext(connection) as seen:
            operator.get(path)
        return len(seen)

    paths = ("/", "/parts/", "/lieutenants/")
    end_turn(enlist("ada"))
    for path in paths:
        operator.get(path)
    few = [statements(path) for path in paths]
    for number in range(20):
        end_turn(enlist(f"more-{number}"), "error")
    assert [statements(path) for path in paths] == few
