"""The page of changes, its parts, and comments that are sent as one message."""

from __future__ import annotations

import html
import json
import re
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client

from lieutenants.changes import diffs
from lieutenants.isolation.homes import home_of
from lieutenants.models import Lieutenant, Message
from lieutenants.states import Status
from reef_site.common import clock, outside
from reef_site.common.models import OutsideCall
from tests.conftest import Api
from tests.lieutenants.changes.repositories import change, make_repository
from tests.lieutenants.rows import enlist, page

pytestmark = pytest.mark.django_db(transaction=True)

SCRIPT: Any = {"HTTP_REEF_SCRIPT": "1"}
EVIL = "<script>alert(1)</script>\u202e\x1b[31m"


@pytest.fixture
def ada() -> Lieutenant:
    """A lieutenant with the folders that its first start has made, and a repository."""
    row = enlist(agent="command", command=["cat"])
    home = home_of(row.pk)
    for folder in home.agents:
        folder.mkdir(parents=True)
    home.prompt.touch()
    # Of the agent's user, whoever that is.
    home.tmp.chmod(0o777)
    row.folder = str(home.workspace)
    row.save(update_fields=["folder"])
    make_repository(home.workspace)
    return row


def workspace(row: Lieutenant) -> Path:
    return Path(row.folder)


def file_part(row: Lieutenant, query: str) -> str:
    return f"/lieutenants/by-id/{row.pk}/_changed-file?against=head&{query}"


# -- the page --------------------------------------------------------------------------------------


def test_page_lists_files_and_leads_to_their_parts(operator: Client, ada: Lieutenant) -> None:
    change(workspace(ada))
    (workspace(ada) / "<b>odd\n").write_text("x\n")
    text = page(operator, "/lieutenants/ada/changes/?against=head")
    assert "6 files" in text
    assert "old.txt →" in text
    assert "&quot;&lt;b&gt;odd\\n&quot;" in text
    assert "<b>odd" not in text
    assert "binary" in text
    urls = [html.unescape(each) for each in re.findall(r'data-url="([^"]+path=[^"]+)"', text)]
    assert len(urls) == 6
    for url in urls:
        part = page(operator, url, **SCRIPT)
        assert "is-warning" not in part
        assert "<html" not in part
    assert 'href="/lieutenants/ada/changes/"' in page(operator, "/lieutenants/ada/")


def test_part_shows_lines_with_numbers_of_both_sides(operator: Client, ada: Lieutenant) -> None:
    change(workspace(ada))
    (workspace(ada) / "evil.txt").write_text(f"{EVIL}\n")
    part = page(operator, file_part(ada, "path=cart.py"), **SCRIPT)
    assert 'data-side="old" data-line="5"' in part
    assert 'aria-label="Comment on old line 5"' in part
    assert 'aria-label="Comment on line 5"' in part
    evil = page(operator, file_part(ada, "path=evil.txt"), **SCRIPT)
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in evil
    assert "\u202e" not in evil
    assert "\x1b" not in evil
    whole = page(operator, file_part(ada, "path=cart.py"))
    assert "<main" in whole
    assert '<button type="button" class="line"' not in whole


def test_long_file_has_a_link_to_more_lines(operator: Client, ada: Lieutenant) -> None:
    (workspace(ada) / "long.txt").write_text("x\n" * 6000)
    part = page(operator, file_part(ada, "path=long.txt"), **SCRIPT)
    assert part.count('class="is-added"') == 499
    more = re.search(r'href="([^"]+)" data-more', part)
    assert more
    rest = page(operator, html.unescape(more[1]), **SCRIPT)
    assert rest.count('class="is-added"') == 4999
    assert "differs in more than 5000 lines" in rest


def test_problem_is_a_sentence_with_the_repositories_below(
    operator: Client, ada: Lieutenant
) -> None:
    (workspace(ada) / ".git").rename(workspace(ada) / "git")
    make_repository(workspace(ada) / "a b")
    text = page(operator, "/lieutenants/ada/changes/")
    assert "is not a git repository, so there is nothing to compare with." in text
    assert 'href="/lieutenants/ada/changes/?repository=a+b"' in text
    inner = page(operator, "/lieutenants/ada/changes/?repository=a+b&against=head")
    assert "Nothing has changed" in inner
    refused = page(operator, "/lieutenants/ada/changes/?against=commit", 400)
    assert "commit: is required" in refused
    assert 'id="compare"' in refused
    assert page(operator, "/lieutenants/eve/changes/", 404)


def test_page_of_all_files_takes_no_path(operator: Client, ada: Lieutenant) -> None:
    query = "?against=head&path=cart.py&lines=x"
    assert "0 files" in page(operator, f"/lieutenants/ada/changes/{query}")


def test_answers_are_kept_for_minutes(operator: Client, ada: Lieutenant) -> None:
    page(operator, "/lieutenants/ada/changes/?against=head")
    outside.forget_old()
    assert OutsideCall.objects.count() == 1
    OutsideCall.objects.update(made_at=clock.now() - timedelta(minutes=6))
    outside.forget_old()
    assert not OutsideCall.objects.exists()


def test_page_waits_for_the_worker(
    operator: Client, ada: Lieutenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[str] = []
    monkeypatch.setattr(outside, "dispatch", lambda _task, pk, **_: sent.append(pk))
    text = page(operator, "/lieutenants/ada/changes/?against=head")
    found = re.search(r'data-wait="([^"]+)"', text)
    assert found
    url = html.unescape(found[1])
    assert "data-wait" in page(operator, url, **SCRIPT)
    outside.run_here(sent[0])
    assert "0 files" in page(operator, url, **SCRIPT)
    assert operator.get(url.replace("head", "start"), **SCRIPT).status_code == 400
    assert operator.get(url[:-1] + "x", **SCRIPT).status_code == 404


def test_destroyed_lieutenant_has_no_changes(operator: Client, ada: Lieutenant) -> None:
    Lieutenant.objects.update(status=Status.DESTROYED)
    assert "/changes/" not in page(operator, f"/lieutenants/by-id/{ada.pk}/")
    part = page(operator, f"/lieutenants/by-id/{ada.pk}/_changes", **SCRIPT)
    assert "It has been destroyed" in part


# -- who may read them -----------------------------------------------------------------------------


def test_changes_need_a_token_or_a_sign_in(api: Api, ada: Lieutenant) -> None:
    answer = api.get("/lieutenant/lieutenants/ada/changes?against=head")
    assert answer.status_code == 200, answer.content
    for path in ("changes", "changes/file?path=a", "changes/calls/x"):
        assert Client().get(f"/lieutenant/lieutenants/ada/{path}").status_code == 401
    assert Client().get("/lieutenants/ada/changes/").status_code == 302


def test_read_only_account_reads_and_sends_nothing(client: Client, ada: Lieutenant) -> None:
    change(workspace(ada))
    client.force_login(User.objects.create_user("viola"))
    text = page(client, "/lieutenants/ada/changes/?against=head")
    assert "cart.py" in text
    assert 'id="comments"' not in text
    part = page(client, file_part(ada, "path=cart.py"), **SCRIPT)
    assert 'class="line"' not in part
    answer = client.post(f"/lieutenants/by-id/{ada.pk}/_comments", {"comments": body(comment())})
    assert answer.status_code == 403
    assert not Message.objects.exists()


# -- comments --------------------------------------------------------------------------------------


def comment(**fields: Any) -> dict[str, Any]:
    usual = {"repository": "", "path": "cart.py", "side": "new", "line": 5, "quote": "five"}
    return {**usual, "text": "Why?", **fields}


def body(*given: dict[str, Any]) -> str:
    return json.dumps(given)


def test_comments_become_one_message(operator: Client, ada: Lieutenant) -> None:
    url = f"/lieutenants/by-id/{ada.pk}/_comments"
    given = body(
        comment(),
        comment(side="old", quote="line 5\nx", text="  Keep it.\nPlease.  ", repository="shop"),
    )
    for _ in range(2):
        answer = operator.post(url, {"comments": given, "key": "once"}, **SCRIPT)
        assert answer.status_code == 204, answer.content
    assert Message.objects.get().text == (
        "2 comments on the changes in your folder:\n\n"
        "cart.py:5\n> five\nWhy?\n\n"
        "shop/cart.py:5, a removed line\n> line 5 x\nKeep it.\nPlease."
    )
    assert operator.post(url, {"comments": body(comment())}).status_code == 302
    assert Message.objects.count() == 2


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ("", "must be a list"),
        ("[]", "must be a list"),
        ("[1]", "each must be an object"),
        (body(comment(text=" ")), "each needs a text"),
        (body(comment(text="x" * 4001)), "each needs a text"),
        (body(comment(path="../x")), "must be a path"),
        (body(comment(path="")), "each needs a path"),
        (body(comment(side="left")), "each needs a path"),
        (body(comment(line=0)), "line must be"),
        (body(comment(line=True)), "line must be"),
        (body(comment(quote=None)), "quote must be"),
        (body(*[comment()] * 101), "at most 100"),
    ],
)
def test_comments_in_another_form_are_refused(
    operator: Client, ada: Lieutenant, given: str, text: str
) -> None:
    url = f"/lieutenants/by-id/{ada.pk}/_comments"
    answer = operator.post(url, {"comments": given}, **SCRIPT)
    assert answer.status_code == 400
    assert text in answer.content.decode()
    assert not Message.objects.exists()


def test_comments_to_a_paused_lieutenant_are_refused(operator: Client, ada: Lieutenant) -> None:
    Lieutenant.objects.update(status=Status.PAUSED)
    url = f"/lieutenants/by-id/{ada.pk}/_comments"
    answer = operator.post(url, {"comments": body(comment())}, **SCRIPT)
    assert (answer.status_code, answer.content) == (
        400,
        b"Lieutenant 'ada' is paused. Resume it first.",
    )


# -- rows ------------------------------------------------------------------------------------------


def test_rows_count_both_sides() -> None:
    lines = ["@@ -2,3 +2,3 @@ def f", " a", "-b", "+c", "", "\\ No newline at end of file", "?"]
    assert [(row.kind, row.old, row.new, row.text) for row in diffs.rows_of(lines)] == [
        ("hunk", None, None, "@@ -2,3 +2,3 @@ def f"),
        ("same", 2, 2, "a"),
        ("deleted", 3, None, "b"),
        ("added", None, 3, "c"),
        ("same", 4, 4, ""),
        ("note", None, None, "No newline at end of file"),
        ("note", None, None, "?"),
    ]
    assert [row.kind for row in diffs.rows_of(["+never in a hunk"])] == ["note"]
