"""Failures of model providers as sentences."""

from __future__ import annotations

import json
from typing import Any

import pytest
from django.test import Client

from lieutenants.agents.provider_errors import MAX_LENGTH, sentence
from tests.lieutenants.rows import Told, enlist, page

ANTHROPIC = {"type": "error", "error": {"type": "x", "message": "invalid x-api-key"}}
GOOGLE = {"error": {"code": 429, "message": "Quota exceeded.", "status": "RESOURCE_EXHAUSTED"}}
NESTED = {"error": {"message": json.dumps(GOOGLE), "code": 429, "status": "Too Many Requests"}}
LONG = {"error": {"message": "prompt is too long: 210000 tokens > 200000 maximum"}}


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (f"401 {json.dumps(ANTHROPIC)}", "rejected the API key: invalid x-api-key."),
        (json.dumps(GOOGLE), "is limiting the request rate: Quota exceeded."),
        (json.dumps(NESTED), "is limiting the request rate: Quota exceeded."),
        (f"400 {json.dumps(LONG)}", "The conversation is too long for the model: prompt is"),
        ("404 The model `gpt-9` does not exist", "does not know the model: The model `gpt-9`"),
        ("429 slow down", "is limiting the request rate: slow down."),
        ('529 {"error": {"message": "Overloaded"}}', "is overloaded: Overloaded."),
        ("500", "The model provider has an internal error."),
        ("503 upstream connect error", "internal error: upstream connect error."),
        ("HTTP 502: Bad gateway", "internal error: Bad gateway."),
        ("fetch failed", "The model provider cannot be reached: fetch failed."),
        ("connect ECONNREFUSED 127.0.0.1:1", "cannot be reached: connect ECONNREFUSED"),
        ("No more tries: 429 slow down", "No more tries: The model provider is limiting"),
        ("429 slow down · try 1 of 3 in 2 s", "the request rate: slow down. · try 1 of 3 in 2 s"),
        ('400 {"error": "no such field"}', "rejected the request: no such field."),
        ("401 {broken", "rejected the API key: {broken."),
        ('500 {"error": {"message": ["a list"]}}', "internal error"),
    ],
)
def test_failure_becomes_one_sentence(raw: str, said: str) -> None:
    found = sentence(raw)
    assert said in found
    assert "\n" not in found
    assert len(found) < MAX_LENGTH + 120


@pytest.mark.parametrize(
    "raw",
    [
        "",
        "The answer was aborted.",
        "Extension a.ts: the context window of my app",
        "The model failed without an error message.",
        "12 files were changed",
        "{not json",
        "[1, 2]",
        "{}",
    ],
)
def test_other_texts_are_unchanged(raw: str) -> None:
    assert sentence(raw) == raw


def test_long_texts_are_truncated() -> None:
    assert len(sentence("400 " + "a " * 5000)) < MAX_LENGTH + 60


@pytest.mark.django_db
def test_pages_fold_the_raw_text_away(operator: Client) -> None:
    raw = f"401 {json.dumps(ANTHROPIC)}"
    ada = enlist(trouble=raw)
    told = Told(ada)
    told.entry("error", raw, is_error=True)
    told.entry("notice", "404 lines were said by nobody who failed.")
    html = page(operator, "/lieutenants/ada/")
    plain = "The model provider rejected the API key: invalid x-api-key."
    assert html.count(plain) == 2
    assert html.count("Original message") == 2
    assert "404 lines were said" in html
    assert html.count("&quot;type&quot;: &quot;error&quot;") == 2
    for path in ("/", "/lieutenants/"):
        listed = page(operator, path)
        assert plain in listed
        assert "&quot;type&quot;" not in listed


@pytest.mark.django_db
def test_the_api_keeps_the_raw_text(operator: Client, api: Any) -> None:
    raw = f"401 {json.dumps(ANTHROPIC)}"
    enlist(trouble=raw)
    assert api.get("/lieutenant/lieutenants/ada").json()["trouble"] == raw
