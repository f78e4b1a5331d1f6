"""From the platform's refusals to our names for them.

Two shapes of JSON are in use, `{"error", "success": false}` and `{"vms": […], "error"}`, beside
plain text with and without a Content-Type. What the status alone does not say, the shape does.
"""

from __future__ import annotations

import re
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Any

import httpx

from bootloader import exceptions as errors
from bootloader.vers import wire
from reef_site.common import clock

_MOST_TEXT = 300
# A key of the platform, wherever it may have crept in.
_KEY = re.compile(
    r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}[0-9a-fA-F]{64}|(?i:bearer)\s+\S+"
)


def error_of(
    response: httpx.Response,
    *,
    write: bool,
    missing: type[errors.ProviderRefused],
    secret: str,
) -> errors.ProviderError:
    """The error that this answer is. `missing` is what a 404 means for the question asked."""
    body = json_of(response)
    text = _sentence(response, body, secret)
    error = _named(response, body, text, write=write, missing=missing)
    error.answered = response.status_code
    return error


def json_of(response: httpx.Response) -> Any:
    """The body, if it says that it is JSON and is; else None."""
    if "json" not in response.headers.get("content-type", ""):
        return None
    try:
        return response.json()
    except ValueError:
        return None


def without_secrets(text: str, secret: str) -> str:
    """The text without our key, or any other of the platform's."""
    if secret:
        text = text.replace(secret, "…")
    return _KEY.sub("…", text)


def _named(
    response: httpx.Response,
    body: Any,
    text: str,
    *,
    write: bool,
    missing: type[errors.ProviderRefused],
) -> errors.ProviderError:
    status = response.status_code
    if made := wire.made_ids(body):
        return errors.PartlyDone(text, made)
    if status == 401 or (status == 403 and body is None):
        return errors.BadProviderKey(f"Vers does not know our VERS_API_KEY ({text})")
    if status == 429:
        return errors.RateLimited(text, _seconds(response))
    if status == 403 and "limit exceeded" in text.lower():
        return errors.QuotaExceeded(text)
    if status == 404:
        return missing(text)
    if status >= 500:
        return _fault(status, body, text, write=write)
    if status >= 400:
        return errors.ProviderRefused(text)
    return errors.ProviderRefused(f"{text}: is VERS_BASE_URL the address of the platform?")


def _fault(status: int, body: Any, text: str, *, write: bool) -> errors.ProviderError:
    """A 500 in JSON is a clear no of a node, often to our mistake; all else may have happened."""
    if not write:
        return errors.ProviderAway(text) if status != 501 else errors.ProviderError(text)
    clear = status in (500, 501) and body is not None
    if clear and not re.search(r"time(d )?.?out", text, re.IGNORECASE):
        return errors.ProviderError(text)
    return errors.OutcomeUnknown(f"{text}: it may have happened")


def _sentence(response: httpx.Response, body: Any, secret: str) -> str:
    said = body.get("error") if isinstance(body, dict) else None
    if not isinstance(said, str) or not said.strip():
        said = response.text if body is None else ""
    said = " ".join(without_secrets(said, secret).split())[:_MOST_TEXT] or "no reason given"
    number = response.headers.get("x-request-id", "")[:64]
    return f"Vers: {said} ({response.status_code}{', request ' + number if number else ''})"


def _seconds(response: httpx.Response) -> float | None:
    """Retry-After, as a number of seconds or as a date."""
    given = response.headers.get("retry-after", "").strip()
    if given.isdigit():
        return float(given)
    try:
        until = parsedate_to_datetime(given)
    except ValueError:
        return None
    until = until if until.tzinfo else until.replace(tzinfo=UTC)
    return max(0.0, (until - clock.now()).total_seconds())
