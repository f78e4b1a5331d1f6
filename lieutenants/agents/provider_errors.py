"""Turn failures of model providers into sentences for people.

Providers answer with a status code and JSON, each in its own form, and the agent passes that on
unchanged. Rows keep the raw text; pages show the sentence and fold the raw text away.
"""

from __future__ import annotations

import functools
import json
import re
from typing import Any

MAX_LENGTH = 240

# Text that `session` adds around the agent's text.
_RETRY = re.compile(r"(?s)(?P<failure>.*?)(?P<again> · try \d+ of \d+ in [\d.]+ s)?$")
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
# The same request would be rejected again.
_REFUSALS = frozenset({400, 413, 422})
# The provider answers again after a time, or after a payment.
_LIMITS = frozenset({402, 429})
_LIMITED = re.compile(
    r"rate[ _-]?limit|usage[ _-]?limit|\bquota\b|too many requests", re.IGNORECASE
)
_THEIR_FAULT = "The model provider has an internal error"


@functools.lru_cache(maxsize=1024)
def sentence(raw: str) -> str:
    """Return the failure in one sentence. A text that is not a provider's answer is unchanged.

    Cached: pages and their refreshes ask for the same failures again.
    """
    found = _RETRY.match(raw)
    failure, again = (found["failure"], found["again"] or "") if found else (raw, "")
    before = _NO_MORE if failure.startswith(_NO_MORE) else ""
    return f"{before}{_plain(failure.removeprefix(_NO_MORE))}{again}"


def _plain(failure: str) -> str:
    numbered = _STATUS.match(failure)
    rest = failure[numbered.end() :] if numbered else failure
    message, status = _read(rest)
    status = int(numbered["status"]) if numbered else status
    is_answer = bool(numbered) or message != rest
    about = _about(f"{message} {rest}", status, is_answer=is_answer)
    return _joined(about, message) if about or is_answer else failure


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
    """Return the message and status code of a text with JSON; without JSON the text and 0."""
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
    # Some providers nest one answer in another.
    deeper, number = _read(message) if "{" in message else (message, 0)
    return deeper, number or (code if isinstance(code, int) else 0)


def _joined(about: str, message: str) -> str:
    words = " ".join(message.split()).strip(" .")
    if len(words) > MAX_LENGTH:
        words = words[: MAX_LENGTH - 1].rstrip() + "…"
    return ": ".join(part for part in (about, words) if part) + "."


def is_limit(raw: str) -> bool:
    """Return whether the provider says that a quota or rate limit is used up."""
    numbered = _STATUS.match(raw)
    _, status = _read(raw[numbered.end() :] if numbered else raw)
    status = int(numbered["status"]) if numbered else status
    return status in _LIMITS or bool(_LIMITED.search(raw))


def is_about_request(raw: str) -> bool:
    """Return whether the provider rejects the request itself, not its sender or its timing."""
    found = _RETRY.match(raw)
    failure = (found["failure"] if found else raw).removeprefix(_NO_MORE)
    numbered = _STATUS.match(failure)
    message, status = _read(failure[numbered.end() :] if numbered else failure)
    status = int(numbered["status"]) if numbered else status
    if status:
        return status in _REFUSALS
    return not _UNREACHABLE.search(f"{message} {failure}")
