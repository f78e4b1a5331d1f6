"""What a provider of models says when it fails, as one sentence that a person can read.

Providers answer with a number and JSON, each in a form of its own; the agent hands that on as it
came. Rows keep the raw text, pages show this and fold the raw text away.
"""

from __future__ import annotations

import json
import re
from typing import Any

LONGEST = 240

# What the agent's words are wrapped in, by `session`.
_AGAIN = re.compile(r"(?s)(?P<failure>.*?)(?P<again> · try \d+ of \d+ in [\d.]+ s)?$")
_NO_MORE = "No more tries: "
_STATUS = re.compile(r"^(?:HTTP |Error:? |API Error:? )?(?P<status>[45]\d\d)\b[:\s]*")
_UNREACHABLE = re.compile(
    r"ECONNREFUSED|ECONNRESET|ENOTFOUND|EAI_AGAIN|ETIMEDOUT|EHOSTUNREACH|fetch failed"
    r"|^Connection error|socket hang up|network error",
    re.IGNORECASE,
)
_TOO_LONG = re.compile(
    r"prompt is too long|context[ _](?:length|window)|maximum context|too many tokens",
    re.IGNORECASE,
)
_WORDS = {
    400: "The model provider rejected the request",
    401: "The model provider rejected the API key",
    402: "The model provider requires payment",
    403: "The model provider does not allow this",
    404: "The model provider does not know the model",
    408: "The model provider timed out",
    413: "The request is too large for the model provider",
    429: "The model provider is limiting the request rate",
    529: "The model provider is overloaded",
}
# The same request would be refused again.
_REFUSALS = frozenset({400, 413, 422})
_THEIR_FAULT = "The model provider has an internal error"


def sentence(raw: str) -> str:
    """The failure in one sentence; a text that is no provider's answer stays as it is."""
    found = _AGAIN.match(raw)
    failure, again = (found["failure"], found["again"] or "") if found else (raw, "")
    before = _NO_MORE if failure.startswith(_NO_MORE) else ""
    return f"{before}{_plain(failure.removeprefix(_NO_MORE))}{again}"


def _plain(failure: str) -> str:
    numbered = _STATUS.match(failure)
    rest = failure[numbered.end() :] if numbered else failure
    said, status = _read(rest)
    status = int(numbered["status"]) if numbered else status
    is_answer = bool(numbered) or said != rest
    about = _about(f"{said} {rest}", status, is_answer=is_answer)
    return _joined(about, said) if about or is_answer else failure


def _about(text: str, status: int, *, is_answer: bool) -> str:
    if is_answer and _TOO_LONG.search(text):
        return "The conversation is too long for the model"
    if status in _WORDS:
        return _WORDS[status]
    if status >= 500:
        return _THEIR_FAULT
    if _UNREACHABLE.search(text):
        return "The model provider cannot be reached"
    return ""


def _read(text: str) -> tuple[str, int]:
    """What the JSON in a text says, and its number; the text itself and 0, if there is none."""
    start = text.find("{")
    if start < 0:
        return text, 0
    try:
        facts, _ = json.JSONDecoder().raw_decode(text[start:])
    except ValueError:
        return text, 0
    inner: Any = facts.get("error", facts)
    if isinstance(inner, str):
        return inner, 0
    if not isinstance(inner, dict):
        return text, 0
    message, code = inner.get("message"), inner.get("code")
    if not isinstance(message, str) or not message.strip():
        return text, 0
    # Some wrap one answer into another.
    deeper, number = _read(message) if "{" in message else (message, 0)
    return deeper, number or (code if isinstance(code, int) else 0)


def _joined(about: str, said: str) -> str:
    words = " ".join(said.split()).strip(" .")
    if len(words) > LONGEST:
        words = words[: LONGEST - 1].rstrip() + "…"
    return ": ".join(part for part in (about, words) if part) + "."


def is_about_request(raw: str) -> bool:
    """Return whether the provider refuses what is asked, and not who asks, or asking now."""
    found = _AGAIN.match(raw)
    failure = (found["failure"] if found else raw).removeprefix(_NO_MORE)
    numbered = _STATUS.match(failure)
    said, status = _read(failure[numbered.end() :] if numbered else failure)
    status = int(numbered["status"]) if numbered else status
    if status:
        return status in _REFUSALS
    return not _UNREACHABLE.search(f"{said} {failure}")
