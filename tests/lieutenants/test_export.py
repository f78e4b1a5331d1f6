"""Exported transcripts: what is in them, and that they run nothing."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from lieutenants.messages import images
from lieutenants.models import Lieutenant, Message
from lieutenants.states import Mode, Status
from lieutenants.transcript import export
from tests.conftest import Api
from tests.lieutenants.rows import Told, enlist

pytestmark = pytest.mark.django_db

ROUTE = "/lieutenant/lieutenants"
EVIL = "<script>alert(1)</script>"
PNG = b"\x89PNG\r\n\x1a\n" + b"p" * 20


@pytest.fixture
def told() -> Told:
    told = Told(enlist())
    message = Message.objects.create(
        lieutenant=told.lieutenant, text="look", mode=Mode.PROMPT, actor="eve"
    )
    images.store(message, [images.NewImage("image/png", PNG)])
    told.entry("user", f"look {EVIL}", message=message, data={"images": 1})
    told.entry("thinking", "one\ntwo")
    told.entry("text", f"It is **done** {EVIL}")
    told.call("c1", command="cat x")
    told.result("c1", "a\n```\nb <i>")
    told.entry("error", "429 overloaded", is_error=True)
    told.entry("usage", data={"input": 900})
    told.chunk(told.entry("text", final=False, block=0), "half a sen")
    return told


def read(answer: Any) -> str:
    assert answer.status_code == 200
    return b"".join(answer.streaming_content).decode()


@pytest.mark.usefixtures("told")
def test_html_has_everything_and_no_script(api: Api) -> None:
    answer = api.get(f"{ROUTE}/ada/export")
    html = read(answer)
    assert answer["Content-Type"] == "text/html; charset=utf-8"
    assert answer["Content-Disposition"].startswith('attachment; filename="ada-')
    assert "sandbox" in answer["Content-Security-Policy"]
    assert "<script" not in html
    for part in ("eve, ", "<strong>done</strong>", "cat x", "b &lt;i&gt;", "429", "half a sen"):
        assert part in html
    assert f"data:image/png;base64,{base64.b64encode(PNG).decode()}" in html
    assert "900" not in html


@pytest.mark.usefixtures("told")
def test_markdown_keeps_texts_and_fences_output(api: Api) -> None:
    answer = api.get(f"{ROUTE}/ada/export?format=markdown")
    text = read(answer)
    assert answer["Content-Type"] == "text/markdown; charset=utf-8"
    assert "It is **done**" in text
    assert "> one\n> two\n" in text
    assert "````\na\n```\nb <i>\n````" in text
    assert "*With images: image/png*" in text
    assert "*error: 429 overloaded*" in text


def test_json_has_the_entries_of_the_transcript(api: Api, told: Told) -> None:
    found = json.loads(read(api.get(f"{ROUTE}/ada/export?format=json")))
    assert found["lieutenant"]["id"] == told.lieutenant.pk
    assert found["entries"] == api.get(f"{ROUTE}/ada/transcript").json()["entries"]


def test_export_spans_pages(api: Api, told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = read(api.get(f"{ROUTE}/ada/export?format=markdown"))
    monkeypatch.setattr(export, "_PAGE_SIZE", 2)
    assert read(api.get(f"{ROUTE}/{told.lieutenant.pk}/export?format=markdown")) == whole


def test_empty_transcript_is_exported(api: Api) -> None:
    enlist()
    assert json.loads(read(api.get(f"{ROUTE}/ada/export?format=json")))["entries"] == []


@pytest.mark.usefixtures("told")
def test_unknown_format_is_refused(api: Api, operator: Client) -> None:
    said = "format: must be one of html, markdown, json, agent"
    answer = api.get(f"{ROUTE}/ada/export?format=pdf")
    assert (answer.status_code, answer.json()) == (400, {"error": said})
    pk = Lieutenant.objects.get().pk
    assert operator.get(f"/lieutenants/by-id/{pk}/export?format=pdf").status_code == 400


def test_page_offers_the_export_also_of_a_destroyed_lieutenant(
    told: Told, operator: Client
) -> None:
    pk = told.lieutenant.pk
    shown = f"/lieutenants/by-id/{pk}/export"
    assert shown in operator.get("/lieutenants/ada/").content.decode()
    Lieutenant.objects.update(status=Status.DESTROYED)
    assert shown in operator.get(f"/lieutenants/by-id/{pk}/").content.decode()
    assert "cat x" in read(operator.get(shown))
    assert Client().get(shown).status_code == 302


def test_agent_without_sessions_makes_no_page(api: Api) -> None:
    enlist(agent="command", command=["cat"])
    answer = api.get(f"{ROUTE}/ada/export?format=agent")
    assert answer.status_code == 409
    assert answer.json()["error"] == "The agent 'command' exports no session"


@pytest.mark.parametrize("format_", ["html", "markdown", "json"])
def test_queries_do_not_depend_on_the_number_of_entries(api: Api, told: Told, format_: str) -> None:
    def count() -> int:
        with CaptureQueriesContext(connection) as queries:
            read(api.get(f"{ROUTE}/ada/export?format={format_}"))
        return len(queries)

    def say(number: int) -> None:
        message = Message.objects.create(
            lieutenant=told.lieutenant, text="more", mode=Mode.PROMPT, actor=f"eve{number}"
        )
        told.entry("user", "more", message=message)
        if format_ != "html":  # it has the data of each image
            images.store(message, [images.NewImage("image/png", PNG)])
            told.entry("user", "more", message=message, data={"images": 1})

    say(0)
    first = count()
    for number in range(1, 10):
        say(number)
    assert count() == first


@pytest.mark.parametrize("format_", ["html", "markdown"])
def test_only_output_of_programs_is_shown_as_by_a_terminal(
    api: Api, told: Told, format_: str
) -> None:
    told.entry("user", "kept\rword")
    told.result("c2", "gone\rdone")
    text = read(api.get(f"{ROUTE}/ada/export?format={format_}"))
    assert "kept\rword" in text
    assert "gone" not in text
