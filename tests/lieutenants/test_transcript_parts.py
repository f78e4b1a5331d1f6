"""Parts of a transcript: windows, search, messages, pieces of long texts, and what is set aside."""

from __future__ import annotations

import re
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client

from lieutenants import membership
from lieutenants.models import Entry, Lieutenant
from lieutenants.states import Status
from lieutenants.transcript import finding, items
from tests.conftest import Api
from tests.lieutenants.planted import NEEDLE, plant
from tests.lieutenants.rows import Told, block, enlist, page
from vmtree import tokens
from vmtree.models import Node

pytestmark = pytest.mark.django_db

PATH = "/lieutenant/lieutenants"


@pytest.fixture
def told() -> Told:
    return Told(enlist())


def shown(html: str) -> list[int]:
    return [int(pk) for pk in re.findall(r'<article [^>]*id="e(\d+)"', html)]


def cursor(html: str, link: str) -> int | None:
    found = re.search(rf'id="{link}" href="\?\w+=(\d+)"', html)
    return int(found[1]) if found else None


def test_windows_cover_a_transcript_in_both_directions(told: Told, operator: Client) -> None:
    ids = [told.entry("text", f"number {number}").pk for number in range(260)]
    other = Told(enlist("bob")).entry("text", "of another")
    base = f"/lieutenants/by-id/{told.lieutenant.pk}/_transcript"

    html = page(operator, base)
    assert (shown(html), cursor(html, "later")) == (ids[160:], None)
    html = page(operator, f"{base}?before={cursor(html, 'earlier')}")
    assert (shown(html), cursor(html, "later")) == (ids[60:160], ids[159])
    html = page(operator, f"{base}?before={cursor(html, 'earlier')}")
    assert (shown(html), cursor(html, "earlier")) == (ids[:60], None)
    html = page(operator, f"{base}?after={cursor(html, 'later')}")
    assert (shown(html), cursor(html, "earlier")) == (ids[60:160], ids[60])
    html = page(operator, f"{base}?after={cursor(html, 'later')}")
    assert (shown(html), cursor(html, "later")) == (ids[160:], None)

    html = page(operator, f"{base}?at={ids[100]}")
    assert shown(html) == ids[50:150]
    assert (cursor(html, "earlier"), cursor(html, "later")) == (ids[50], ids[149])
    assert shown(page(operator, f"{base}?at={ids[3]}")) == ids[:53]
    # An id of another transcript is a place between its own entries.
    assert shown(page(operator, f"{base}?at={other.pk}")) == ids[210:]
    for junk in ("at=x", "after=", "before=-1"):
        assert shown(page(operator, f"{base}?{junk}")) == ids[160:]


def test_permalink_shows_its_entry_and_follows(told: Told, operator: Client) -> None:
    ids = [told.entry("user", f"number {number}").pk for number in range(150)]
    html = page(operator, f"/lieutenants/ada/?at={ids[20]}")
    assert f'data-at="{ids[20]}"' in html
    assert "Back to newest" in html
    assert f'href="?at={ids[20]}#e{ids[20]}"' in block(html, Entry.objects.get(pk=ids[20]))
    assert "Back to newest" not in page(operator, "/lieutenants/ada/")


def test_page_of_a_long_transcript_reads_few_rows(
    operator: Client, django_assert_max_num_queries: Any
) -> None:
    row = plant(3000)
    with django_assert_max_num_queries(60):
        html = page(operator, "/lieutenants/long/")
    assert len(shown(html)) <= items.PAGE_SIZE
    assert len(html) < 400_000
    with django_assert_max_num_queries(20):
        page(
            operator,
            f"/lieutenants/by-id/{row.pk}/_transcript?at={Entry.objects.earliest('id').pk}",
        )


# -- search --------------------------------------------------------------------------------------


def find(api: Api, words: str, more: str = "") -> dict[str, Any]:
    answer = api.get(f"{PATH}/ada/find?q={words}{more}")
    assert answer.status_code == 200, answer.content
    found: dict[str, Any] = answer.json()
    return found


def test_words_are_found_in_texts_and_arguments(told: Told, api: Api) -> None:
    text = told.entry("text", "x" * 500 + " The Needle is here " + "y" * 500)
    call = told.call("c", command='grep "needle" | é')
    told.entry("usage", "needle", data={"input": 1})
    told.entry("text", "needl e")
    Told(enlist("bob")).entry("text", "needle")
    told.result("d", "100% needle_x")

    found = find(api, "needle")
    assert [each["kind"] for each in found["matches"]] == ["tool_result", "tool_call", "text"]
    assert (found["count"], found["next"]) == (3, None)
    assert found["matches"][2]["excerpt"].startswith("… xxx")
    assert "The Needle is here" in found["matches"][2]["excerpt"]
    assert 'bash {"command"' in found["matches"][1]["excerpt"]
    assert find(api, "%22needle%22 | é")["matches"][0]["id"] == call.pk
    assert [each["id"] for each in find(api, "is here")["matches"]] == [text.pk]
    # Signs of patterns are words like others.
    assert find(api, "100%25 needle_x")["count"] == 1
    assert find(api, "100_")["count"] == find(api, "n%25e")["count"] == 0


def test_search_goes_on_below_a_cursor(told: Told, api: Api) -> None:
    ids = [told.entry("text", f"word {number}").pk for number in range(7)]
    found, after = [], ""
    for _ in range(4):
        answer = find(api, "WORD", f"&limit=2{after}")
        found += [each["id"] for each in answer["matches"]]
        after = f"&cursor={answer['next']}"
    assert answer["next"] is None
    assert found == ids[::-1]


def test_search_that_takes_long_goes_on_below_a_cursor(
    told: Told, api: Api, operator: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = told.entry("text", "word")
    for number in range(7):
        told.entry("text", f"other {number}")
    new = told.entry("text", "word")
    monkeypatch.setattr(finding, "MAX_SECONDS", 0.0)
    monkeypatch.setattr(finding, "FIRST_STEP", 3)
    answers = [find(api, "word")]
    while answers[-1]["next"] is not None:
        answers.append(find(api, "word", f"&cursor={answers[-1]['next']}"))
    found = [[each["id"] for each in answer["matches"]] for answer in answers]
    assert found[:3] == [[new.pk], [], [old.pk]]
    assert not any(found[3:])
    html = page(operator, f"/lieutenants/by-id/{told.lieutenant.pk}/_find?q=other&before={new.pk}")
    assert "3 and more" in " ".join(html.split())
    html = page(operator, f"/lieutenants/by-id/{told.lieutenant.pk}/_find?q=absent")
    assert "Nothing in the newest part" in html
    # In steps within the time the same is found.
    monkeypatch.setattr(finding, "MAX_SECONDS", 60.0)
    assert [each["id"] for each in find(api, "word")["matches"]] == [new.pk, old.pk]
    assert find(api, "word", "&limit=1")["next"] == new.pk


@pytest.mark.parametrize(
    ("query", "sentence"),
    [
        ("", "q is required"),
        ("q=+", "q is required"),
        (f"q={'x' * 201}", "q:"),
        ("q=a&limit=0", "limit"),
    ],
)
def test_wrong_search_is_refused(told: Told, api: Api, query: str, sentence: str) -> None:
    refused = api.get(f"{PATH}/ada/find?{query}")
    assert refused.status_code == 400
    assert sentence in refused.json()["error"]


def test_search_needs_the_right_to_read(told: Told, api: Api) -> None:
    membership.register(told.lieutenant, actor="tests")
    other = enlist("bob")
    membership.register(other, actor="tests")
    token = tokens.issue(Node.objects.get(vm_id=other.pk), made_by="tests")
    node = Client(headers={"authorization": f"Bearer {token}"})
    assert node.get(f"{PATH}/ada/find?q=x").status_code == 403
    assert node.get(f"{PATH}/bob/find?q=x").status_code == 200
    assert api.get(f"{PATH}/nobody/find?q=x").status_code == 404


def test_page_finds_with_and_without_scripts(operator: Client, client: Client) -> None:
    row = plant(2100)
    base = f"/lieutenants/by-id/{row.pk}/_find"
    html = page(operator, f"{base}?q={NEEDLE}")
    assert "3 entries contain" in " ".join(html.split())
    assert html.count('href="?at=') == 3
    many = page(operator, f"{base}?q=of+turn")
    ids = re.search(r'data-ids="([\d,]+)"', many)
    assert ids is not None
    numbers = [int(each) for each in ids[1].split(",")]
    assert len(numbers) == finding.MAX_MATCHES
    assert f'data-before="{numbers[-1]}"' in many
    assert many.count('href="?at=') == finding.MAX_EXCERPTS
    assert "contains “&lt;b&gt;”" in page(operator, f"{base}?q=<b>")
    page(operator, f"{base}?q=", status=400)
    html = page(operator, f"/lieutenants/long/?find={NEEDLE}")
    assert "3 entries contain" in " ".join(html.split())
    client.force_login(User.objects.create_user("viola"))
    assert 'data-ids="' in page(client, f"{base}?q={NEEDLE}")
    client.logout()
    assert client.get(f"{base}?q={NEEDLE}").status_code == 302


def test_messages_are_listed_newest_first(operator: Client) -> None:
    row = plant(700)
    base = f"/lieutenants/by-id/{row.pk}/_messages"
    html = page(operator, base)
    assert re.findall(r"user of turn (\d+)\.", html) == [str(turn) for turn in range(99, 49, -1)]
    older = re.search(r'data-url="([^"]+)"', html)
    assert older is not None
    html = page(operator, older[1])
    assert len(re.findall("user of turn", html)) == 50
    assert "data-url" not in html


# -- long texts ----------------------------------------------------------------------------------


def test_long_text_is_shown_in_pieces(told: Told, operator: Client) -> None:
    text = "".join(f"{number:09}\n" for number in range(12_000))
    entry = told.entry("text", text)
    base = f"/lieutenants/by-id/{told.lieutenant.pk}/_piece/{entry.pk}"
    assert f'data-piece="{base}?from=0"' in page(operator, "/lieutenants/ada/")
    pieces = []
    for at in (0, 50_000, 100_000):
        html = page(operator, f"{base}?from={at}")
        found = re.search(r"<pre[^>]*>(.*)</pre>", html, re.DOTALL)
        assert found is not None
        pieces.append(found[1])
    assert "".join(pieces) == text
    assert "Characters 100,001 to 120,000 of 120,000" in html
    assert "Characters 100,001 to" in page(operator, f"{base}?from={10**15}")
    assert "Characters 1 to" in page(operator, f"{base}?from=x")
    other = Told(enlist("bob")).lieutenant
    page(operator, f"/lieutenants/by-id/{other.pk}/_piece/{entry.pk}", status=404)


# -- what is set aside ---------------------------------------------------------------------------


def rewound(told: Told) -> list[Entry]:
    """Make a transcript whose second and third message were taken back."""
    told.open_answer()
    rows = [told.entry("user", "kept"), told.entry("text", "answer kept")]
    rows += [told.entry("user", "bad", data={"rewound": True}), told.entry("text", "answer to bad")]
    rows += [told.entry("user", "worse", data={"rewound": True}), told.call("c", command="x")]
    rows += [told.entry("notice", "Went back", data={"rewind": {"from": "a", "to": "b"}})]
    rows += [told.entry("text", "after"), told.entry("user", "new"), told.entry("text", "answer")]
    Lieutenant.objects.update(session_name="forked.jsonl")
    return rows


def test_what_a_rewind_took_back_is_marked(told: Told, operator: Client) -> None:
    rows = rewound(told)
    html = page(operator, "/lieutenants/ada/")
    marked = ["is-set-aside" in block(html, row) for row in rows]
    assert marked == [False, False, True, True, True, True, False, False, False, False]
    base = f"/lieutenants/by-id/{told.lieutenant.pk}"
    # Single blocks are marked like those of a page.
    for row, is_marked in zip(rows, marked, strict=True):
        html = page(operator, f"{base}/_entries?ids={row.pk}")
        assert ("is-set-aside" in html) is is_marked
    assert "(set aside)" in page(operator, f"{base}/_messages")


def test_page_asks_before_it_goes_back_to_a_message(told: Told, operator: Client) -> None:
    rows = rewound(told)
    html = page(operator, "/lieutenants/ada/")
    path = f"/lieutenants/ada/rewind/{rows[0].pk}"
    assert path in block(html, rows[0])
    assert "/rewind/" not in block(html, rows[2])
    asked = page(operator, path)
    assert "kept" in asked
    assert "Go back to before this message?" in asked
    page(operator, f"/lieutenants/ada/rewind/{rows[2].pk}", status=400)
    page(operator, "/lieutenants/nobody/rewind/1", status=404)

    assert operator.post(path).status_code == 404
    form = {"lieutenant": told.lieutenant.pk}
    assert operator.post(path, form).status_code == 302
    assert Lieutenant.objects.get().rewind_to == rows[0].pk
    Lieutenant.objects.update(status=Status.WORKING, rewind_to=None)
    refused = operator.post(path, form)
    assert refused.status_code == 400
    assert "Abort its answer first" in refused.content.decode()
    assert Lieutenant.objects.get().rewind_to is None


def test_going_back_is_offered_to_nobody_who_may_not(told: Told, client: Client) -> None:
    entry = told.entry("user", "hello")
    client.force_login(User.objects.create_user("viola"))
    path = f"/lieutenants/ada/rewind/{entry.pk}"
    assert path not in page(client, "/lieutenants/ada/")
    assert client.post(path, {"lieutenant": told.lieutenant.pk}).status_code == 403
    Lieutenant.objects.update(agent="command", command=["true"])
    client.force_login(User.objects.create_superuser("root"))
    assert path not in page(client, "/lieutenants/ada/")
    refused = client.post(path, {"lieutenant": told.lieutenant.pk})
    assert refused.status_code == 409
    assert "cannot go back" in refused.content.decode()
