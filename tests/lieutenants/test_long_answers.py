"""Answers of tens of megabytes in lists, pages and the API, and their costs."""

from __future__ import annotations

import re
import tracemalloc
from collections.abc import Iterator
from html import unescape
from typing import Any

import pytest
from django.test import Client

from lieutenants.models import Entry, Message
from lieutenants.states import Outcome, Status
from lieutenants.transcript import outputs
from tests.conftest import Api
from tests.lieutenants.rows import Told, block, enlist, page

pytestmark = pytest.mark.django_db

LIEUTENANTS = "/lieutenant/lieutenants"
BIG = 10_000_000


def answered(told: Told, text: str) -> Entry:
    answer = told.open_answer()
    entry = told.entry("text", text)
    answer.text, answer.outcome = text, Outcome.COMPLETED
    answer.save()
    return entry


def long_text(length: int) -> str:
    return "begin " + "é" * (length - 10) + " end"


@pytest.fixture
def peak() -> Iterator[Any]:
    """Yield a function that returns the growth of Python's peak memory since its last call."""
    tracemalloc.start()
    before = 0

    def ask() -> int:
        nonlocal before
        now, most = tracemalloc.get_traced_memory()
        found, before = most - before, now
        tracemalloc.reset_peak()
        return found

    yield ask
    tracemalloc.stop()


def test_listings_show_head_and_tail_of_a_long_answer(api: Api) -> None:
    told = Told(enlist())
    answered(told, "short")
    answered(told, long_text(1_000_000))

    (found,) = api.get(LIEUTENANTS).json()["lieutenants"]
    assert api.get(f"{LIEUTENANTS}/ada").json() == found
    short, long = found["outputHistory"]
    assert short == "short"
    assert len(long) < outputs.MAX_SHOWN + 100
    assert long.startswith("begin é")
    assert long.endswith("é end")
    assert "980,000 characters left out" in long
    assert found["outputLengths"] == [5, 1_000_000]


def test_short_texts_are_complete_without_lengths(api: Api) -> None:
    told = Told(enlist())
    texts = [long_text(4_000)] * 5 + [long_text(20_000)] * 3
    for text in texts:
        answered(told, text)
    found = api.get(f"{LIEUTENANTS}/ada").json()
    assert found["outputHistory"] == texts
    assert not {"outputLengths", "lastOutputLength"} & found.keys()


def test_a_running_answer_shows_its_end(api: Api) -> None:
    told = Told(enlist(status=Status.WORKING))
    told.open_answer()
    told.entry("text", "a" * 50_000)
    still = told.entry("text", final=False)
    for number in range(20):
        told.chunk(still, f"{number:05}" * 1000)
    whole = "a" * 50_000 + "\n\n" + "".join(f"{number:05}" * 1000 for number in range(20))

    found = api.get(f"{LIEUTENANTS}/ada").json()
    assert found["lastOutput"] == whole[-outputs.MAX_SHOWN :]
    assert found["lastOutputLength"] == len(whole)
    read = api.get(f"{LIEUTENANTS}/ada/read").json()
    assert (read["output"], read["outputLength"]) == (whole, len(whole))


def test_brief_leaves_out_long_texts(api: Api) -> None:
    answered(Told(enlist(system_prompt="p" * 1000)), "answer")
    (found,) = api.get(f"{LIEUTENANTS}?brief=true").json()["lieutenants"]
    full = api.get(f"{LIEUTENANTS}/ada").json()
    assert full.keys() - found.keys() == {"lastOutput", "outputHistory", "systemPrompt"}
    assert api.get(f"{LIEUTENANTS}/ada?brief=true").json() == found
    refused = api.get(f"{LIEUTENANTS}?brief=yes")
    assert (refused.status_code, refused.json()["error"]) == (400, "brief: must be true or false")


def test_read_pages_by_size(api: Api) -> None:
    text = long_text(2_500_000)
    answered(Told(enlist()), text)

    found = api.get(f"{LIEUTENANTS}/ada/read").json()
    assert found["outputLength"] == len(text)
    assert found["output"] == f"...{text[-1_000_000:]}"
    assert api.get(f"{LIEUTENANTS}/ada/read?tail=7").json()["output"] == "...ééé end"

    pages, after = [], 0
    while after is not None:
        answer = api.get(f"{LIEUTENANTS}/ada/read?limit=900000&after={after}").json()
        pages.append(answer["output"])
        after = answer["next"]
    assert [len(each) for each in pages] == [900_000, 900_000, 700_000]
    assert "".join(pages) == text


def test_transcript_is_paginated_by_size(api: Api) -> None:
    told = Told(enlist())
    texts = [*("x" * 100, "y" * 3_000_000, "z" * 3_000_000, long_text(9_000_000)), *"abc"]
    for text in texts:
        told.entry("text", text)

    found, after, pages = [], 0, 0
    while after is not None:
        answer = api.get(f"{LIEUTENANTS}/ada/transcript?after={after}").json()
        found += [each["text"] for each in answer["entries"]]
        after, pages = answer["next"], pages + 1
    assert (found == texts, pages) == (True, 4)

    for number in range(3):
        told.call(f"c{number}", content="x" * 3_000_000)
    last = api.get(f"{LIEUTENANTS}/ada/transcript?after={answer['entries'][-1]['id']}").json()
    assert (last["count"], last["next"] is None) == (1, False)
    Entry.objects.filter(kind="tool_call").delete()

    short = api.get(f"{LIEUTENANTS}/ada/transcript?textLimit=1000").json()
    assert short["next"] is None
    assert [len(each["text"]) < 1100 for each in short["entries"]] == [True] * 7
    assert short["entries"][3]["data"]["textLength"] == 9_000_000
    assert short["entries"][3]["text"].endswith("é end")
    assert "data" not in short["entries"][0]


def test_message_list_is_shortened_and_detail_is_complete(api: Api) -> None:
    row = enlist()
    text = long_text(500_000)
    message = Message.objects.create(lieutenant=row, text=text, mode="prompt", mode_asked="prompt")
    (found,) = api.get(f"{LIEUTENANTS}/ada/messages").json()["messages"]
    assert len(found["text"]) < outputs.MAX_SHOWN + 100
    assert found["textLength"] == 500_000
    whole = api.get(f"{LIEUTENANTS}/ada/messages/{message.pk}").json()
    assert whole["text"] == text
    assert "textLength" not in whole


def test_page_shows_a_long_answer_part_by_part(operator: Client) -> None:
    told = Told(enlist())
    code = "".join(f"line {number}\n" for number in range(10_000))
    text = "".join(f"{number} **word** {'w' * 80}\n\n" for number in range(400))
    text += f"```python\n{code}```\n\nThe *end*."
    entry = answered(told, text)
    html = block(page(operator, "/lieutenants/ada/"), entry)
    link = f"/lieutenants/by-id/{told.lieutenant.pk}/_text/{entry.pk}"
    assert f'href="{link}"' in html
    assert b"".join(operator.get(link)).decode() == text

    parts = [html]
    while found := re.search(r'data-url="([^"]+)"', parts[-1]):
        parts.append(page(operator, unescape(found[1])))
        assert len(parts[-1]) < 60_000
    assert 3 < len(parts) < 10
    whole = "".join(parts)
    assert [f"<p>{number} <strong>" in whole for number in range(400)] == [True] * 400
    # The code goes on as code.
    shown = "".join(re.findall(r"<code>(.*?)</code>", whole, re.DOTALL))
    assert unescape(re.sub("<[^>]*>", "", shown)) == code
    assert parts[-1].count("<p>The <em>end</em>.</p>") == 1


def test_page_shows_the_beginning_of_a_huge_answer_only(operator: Client) -> None:
    told = Told(enlist())
    entry = answered(told, long_text(1_000_000))
    html = block(page(operator, "/lieutenants/ada/"), entry)
    assert len(html) < 100_000
    assert "begin é" in html
    assert "(970,000 characters)" in html


@pytest.mark.parametrize("query", ["?after=x&fence=<b>", "?after=99999999", "?fence=%60%60%60html"])
def test_part_of_an_answer_takes_any_place(operator: Client, query: str) -> None:
    told = Told(enlist())
    entry = answered(told, "<b>one</b>")
    link = f"/lieutenants/by-id/{told.lieutenant.pk}/_text/{entry.pk}/_part"
    assert "<b>" not in page(operator, link + query)
    call = told.call("c1", command="x")
    assert operator.get(link.replace(str(entry.pk), str(call.pk))).status_code == 404


def test_page_shows_the_end_of_a_very_long_running_answer(operator: Client) -> None:
    told = Told(enlist(status=Status.WORKING))
    told.open_answer()
    entry = told.entry("text", final=False)
    for _ in range(30):
        told.chunk(entry, "w" * 50_000)
    told.chunk(entry, "the end")
    html = block(page(operator, "/lieutenants/ada/"), entry)
    assert len(html) < 110_000
    assert "the end" in html
    assert "1,400,007 characters left out" in html


def test_very_long_answer_does_not_grow_the_web_process(
    api: Api, operator: Client, peak: Any
) -> None:
    told = Told(enlist())
    answered(told, "x" * BIG)
    told.entry("user", "x" * BIG)
    told.result("c1", "x" * BIG)
    paths = ["", "?brief=true", "/ada", "/ada/read?tail=100", "/ada/transcript?textLimit=1000"]
    # Imports at the first request do not count.
    for path in paths:
        api.get(LIEUTENANTS + path)
    page(operator, "/lieutenants/ada/")

    peak()
    for path in paths:
        assert api.get(LIEUTENANTS + path).status_code == 200
        assert peak() < 5_000_000, path
    page(operator, "/lieutenants/ada/")
    assert peak() < 10_000_000
