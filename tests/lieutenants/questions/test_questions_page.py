"""The page of questions, their place on a lieutenant's page, and the count in the navigation."""

from __future__ import annotations

import re
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client

from lieutenants.models import Lieutenant, Message, Question
from lieutenants.questions.states import QuestionState
from lieutenants.states import Mode
from tests.lieutenants.questions.test_questions_api import confirmation, lieutenant
from tests.lieutenants.rows import enlist, page
from vmtree import services as tree
from vmtree.services import NewNode

pytestmark = pytest.mark.django_db

OPTIONS = [{"value": "a\nb", "label": "First"}, {"value": "c", "label": "<Second>"}]


@pytest.fixture
def ada(operator: Client) -> Lieutenant:
    return enlist("ada")


def post(client: Client, question: Question, **fields: str) -> Any:
    return client.post(f"/questions/{question.pk}/answer", fields)


@pytest.mark.parametrize(
    ("kind", "fields", "answer"),
    [
        ("confirm", {"button": "yes"}, True),
        ("confirm", {"button": "no"}, False),
        ("select", {"button": "option-0"}, "a\nb"),
        ("permission", {"button": "option-1"}, "c"),
        ("input", {"text": "eve"}, "eve"),
        ("input", {"text": ""}, ""),
        ("editor", {"text": "one\r\ntwo"}, "one\ntwo"),
        ("ask", {"text": "later"}, "later"),
        ("ask", {"text": "", "button": "option-1"}, "c"),
        ("editor", {"text": "x", "button": "dismiss"}, None),
    ],
)
def test_each_kind_is_answered_on_the_page(
    operator: Client, ada: Lieutenant, kind: str, fields: dict[str, str], answer: Any
) -> None:
    options = OPTIONS if kind in ("select", "permission", "ask") else []
    question = confirmation(ada, kind=kind, text="Which <one>?", options=options, prefill="begin")
    html = page(operator, "/questions/")
    assert "Which &lt;one&gt;?" in html
    for option in options:
        assert option["label"].replace("<", "&lt;").replace(">", "&gt;") in html
    done = post(operator, question, **fields)
    assert done.status_code == 302
    question.refresh_from_db()
    assert (question.state, question.answer) == ("answered", answer)
    assert question.decided_by == "admin"
    html = page(operator, "/questions/")
    assert "No agent waits for an answer." in html
    assert "admin" in html[html.index('id="decided"') :]


def test_lost_race_is_told(operator: Client, ada: Lieutenant) -> None:
    question = confirmation(ada)
    assert post(operator, question, button="yes").status_code == 302
    late = post(operator, question, button="no")
    assert late.status_code == 409
    assert "question: was answered by admin already" in late.content.decode()
    script = operator.post(
        f"/questions/{question.pk}/answer", {"button": "no"}, headers={"Reef-Script": "1"}
    )
    assert (script.status_code, script.headers["Content-Type"]) == (409, "text/plain")


def test_invalid_option_is_refused(operator: Client, ada: Lieutenant) -> None:
    question = confirmation(ada, kind="select", options=OPTIONS)
    for button in ("option-7", "option-x", "yes"):
        assert post(operator, question, button=button).status_code == 400
    question.refresh_from_db()
    assert question.is_open


def test_lieutenants_page_shows_its_questions_and_their_history(
    operator: Client, ada: Lieutenant
) -> None:
    mine = confirmation(ada, text="Mine?")
    confirmation(enlist("bea"), text="Hers?")
    Message.objects.create(lieutenant=ada, text="hello", mode=Mode.PROMPT, mode_asked=Mode.PROMPT)
    for path in ("/lieutenants/ada/", f"/lieutenants/by-id/{ada.pk}/_now"):
        html = page(operator, path)
        assert "Mine?" in html
        assert "Hers?" not in html
        assert "below" not in html[html.index('id="asks"') : html.index("Mine?")]
    html = page(operator, "/lieutenants/ada/")
    assert html.index("Mine?") < html.index('id="composer"')
    done = post(operator, mine, button="no", page="lieutenant")
    assert done.headers["Location"] == "/lieutenants/ada/"
    html = page(operator, "/lieutenants/ada/")
    assert re.search(r"Mine\? → <b>no</b>", html)


def test_page_tells_how_many_wait_below(operator: Client) -> None:
    ada = lieutenant("ada")
    lieutenant("bea", ada.pk)
    confirmation(ada)
    assert "1 agent below" in page(operator, "/questions/")


def test_navigation_counts_open_questions(operator: Client, ada: Lieutenant) -> None:
    assert 'class="badge"' not in page(operator, "/questions/_count")
    question = confirmation(ada)
    confirmation(ada)
    assert '<b class="badge">2</b>' in page(operator, "/")
    assert '<b class="badge">2</b>' in page(operator, "/questions/_count")
    post(operator, question, button="yes")
    assert '<b class="badge">1</b>' in page(operator, "/questions/_count")


def test_decided_questions_are_paged(operator: Client, ada: Lieutenant) -> None:
    for number in range(53):
        confirmation(ada, text=f"Question {number:02}?").decide(QuestionState.ANSWERED, answer=True)
    html = page(operator, "/questions/")
    assert ("Question 52?" in html, "Question 02?" in html) == (True, False)
    (earlier,) = re.findall(r'href="(/questions/\?before=\w+)', html)
    html = page(operator, earlier)
    assert ("Question 03?" in html, "Question 02?" in html) == (False, True)


def test_read_only_account_sees_questions_without_forms(client: Client, ada: Lieutenant) -> None:
    question = confirmation(ada, kind="select", options=OPTIONS, text="Which?")
    client.force_login(User.objects.create_user("viola"))
    html = page(client, "/questions/")
    assert "Which?" in html
    assert "/answer" not in html
    assert post(client, question, button="option-0").status_code == 403


def test_answers_depend_on_the_rights_of_the_account(
    ada: Lieutenant, client: Client, settings: Any
) -> None:
    # Another check of the same, in front of the pages.
    before = "reef_site.middleware.OperatorsMiddleware"
    settings.MIDDLEWARE = [each for each in settings.MIDDLEWARE if each != before]
    question = confirmation(ada)
    client.handler.load_middleware()
    client.force_login(User.objects.create_user("viola"))

    assert post(client, question, button="yes").status_code == 403
    question.refresh_from_db()
    assert question.state == QuestionState.OPEN


def test_text_that_would_be_reordered_is_marked(operator: Client, ada: Lieutenant) -> None:
    """People must see a command as it will run."""
    trick = "rm \u202etxt.exe"
    options = [{"value": "y", "label": trick}]
    confirmation(ada, kind="permission", text=trick, details=trick, options=options)
    html = page(operator, "/questions/")
    assert "\u202e" not in html
    assert html.count("rm [U+202E]txt.exe") == 3


def test_who_decided_is_shown_by_name(
    operator: Client, ada: Lieutenant, django_assert_max_num_queries: Any
) -> None:
    for number in range(4):
        tree.create(NewNode(f"boss-{number}", "lieutenant", f"01M8-{number}"), by="tests")
        question = confirmation(ada, request_id=f"r{number}")
        question.decide(QuestionState.ANSWERED, actor=f"node 01M8-{number}", answer=True)
    gone = confirmation(ada, request_id="r9")
    gone.decide(QuestionState.ANSWERED, actor="node gone", answer=True)
    with django_assert_max_num_queries(16):
        html = page(operator, "/questions/_decided")
    for number in range(4):
        link = f'<a href="/fleet/vm?vm=01M8-{number}" title="node 01M8-{number}">boss-{number}</a>'
        assert link in html
    assert ">node gone</td>" in html
