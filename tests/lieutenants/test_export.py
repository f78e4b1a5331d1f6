"""Exported transcripts: what is in them, and that they run nothing."""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path
from typing import Any

import pytest
from django.test import Client

from lieutenants.agents.pi import export as pi_export
from lieutenants.isolation.homes import home_of
from lieutenants.messages import images
from lieutenants.models import Lieutenant, Message
from lieutenants.states import Mode, Status
from lieutenants.transcript import export
from tests.conftest import STANDIN, Api
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


@pytest.mark.parametrize("kind", ["missing", "link", "hard link", "pipe", "large"])
def test_agent_page_is_made_of_its_own_session_file_only(
    api: Api, settings: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    settings.LIEUTENANTS_DIR, settings.PI_PATH = tmp_path / "lieutenants", str(STANDIN)
    session = home_of(enlist().pk).session
    session.mkdir(parents=True)
    path, other = session / "session.jsonl", tmp_path / "other.jsonl"
    other.write_text("{}")
    monkeypatch.setattr(pi_export, "MAX_BYTES", 1)
    if kind == "link":
        path.symlink_to(other)
    elif kind == "hard link":
        path.hardlink_to(other)
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "large":
        path.write_text("{}")
    said = {"missing": "no session yet", "link": "no session yet", "large": "has 2 bytes"}

    answer = api.get(f"{ROUTE}/ada/export?format=agent")
    assert answer.status_code == 409
    assert said.get(kind, "not a file of its own") in answer.json()["error"]
