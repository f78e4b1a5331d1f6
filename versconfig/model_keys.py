"""Tests whether model providers accept a key, with one cheap read that costs nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import httpx

from versconfig import checks, config
from versconfig.checks import Finding
from vmtree.models import Node

TIMEOUT_SECONDS = 10.0


@dataclass(frozen=True)
class KeyTest:
    """The URL to GET, and the header with the key; `{}` stands for the key."""

    url: str
    header: str = "Authorization"
    form: str = "Bearer {}"


KEY_TESTS = {
    "ANTHROPIC_API_KEY": KeyTest("https://api.anthropic.com/v1/models", "x-api-key", "{}"),
    "OPENAI_API_KEY": KeyTest("https://api.openai.com/v1/models"),
    "GEMINI_API_KEY": KeyTest(
        "https://generativelanguage.googleapis.com/v1beta/models?pageSize=1", "x-goog-api-key", "{}"
    ),
    "OPENROUTER_API_KEY": KeyTest("https://openrouter.ai/api/v1/key"),
    "GROQ_API_KEY": KeyTest("https://api.groq.com/openai/v1/models"),
    "MISTRAL_API_KEY": KeyTest("https://api.mistral.ai/v1/models"),
    "XAI_API_KEY": KeyTest("https://api.x.ai/v1/models"),
    "CEREBRAS_API_KEY": KeyTest("https://api.cerebras.ai/v1/models"),
}
_EXTRA = {"ANTHROPIC_API_KEY": {"anthropic-version": "2023-06-01"}}


def register() -> None:
    """Register the tests of these keys."""
    for name in KEY_TESTS:
        checks.key_checks.register(_check_of(name), key=name)


def _check_of(name: str) -> Callable[[Node | None], Finding]:
    return lambda node: check_key(name, config.required(name, node))


def check_key(name: str, key: str) -> Finding:
    """Return whether the provider accepts the key; `good` is None if it cannot be reached."""
    test = KEY_TESTS[name]
    host = httpx.URL(test.url).host
    headers = {test.header: test.form.format(key), **_EXTRA.get(name, {})}
    try:
        response = httpx.get(test.url, headers=headers, timeout=TIMEOUT_SECONDS)
    except (httpx.HTTPError, UnicodeEncodeError) as error:
        return Finding(None, f"{host} could not be asked ({type(error).__name__}).")
    if response.is_success:
        return Finding(True, f"{host} takes this key.")
    # Google returns 400 for an unknown key.
    if response.status_code in (401, 403) or (response.status_code == 400 and "google" in host):
        return Finding(False, f"{host} refuses this key (HTTP {response.status_code}).")
    return Finding(None, f"{host} answered HTTP {response.status_code}; try again later.")
