"""Map the platform's error responses to our exceptions.

There are two shapes of JSON, `{"error", "success": false}` and `{"vms": […], "error"}`, and plain
text with or without a Content-Type. Where the status is ambiguous, the shape decides.
"""

from __future__ import annotations

import re
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Any

import httpx

from bootloader import exceptions as errors
from bootloader.providers.vers import parsing
from reef_site.common import clock

_MAX_TEXT = 300
# Matches keys of the platform.
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
    """Return the error for this response. `missing` is the meaning of a 404 for the request."""
    body = json_of(response)
    text = _sentence(response, body, secret)
    error = _classify(response, body, text, write=write, missing=missing)
    error.http_status = response.status_code
    return error


def json_of(response: httpx.Response) -> Any:
    """Return the parsed body if it is declared as JSON and valid; otherwise None."""
    if "json" not in response.headers.get("content-type", ""):
        return None
    try:
        return response.json()
    except ValueError:
        return None


def without_secrets(text: str, secret: str) -> str:
    """Mask our key, and any other key of the platform."""
    if secret:
        text = text.replace(secret, "…")
    return _KEY.sub("…", text)


def _classify(
    response: httpx.Response,
    body: Any,
    text: str,
    *,
    write: bool,
    missing: type[errors.ProviderRefused],
) -> errors.ProviderError:
    status = response.status_code
    if made := parsing.created_ids(body):
        return errors.PartiallyCreated(text, made)
    if status == 401 or (status == 403 and body is None):
        return errors.BadProviderKey(f"Vers does not know our VERS_API_KEY ({text})")
    if status == 429:
        return errors.RateLimited(text, _seconds(response))
    if status == 403 and "limit exceeded" in text.lower():
        return errors.QuotaExceeded(text)
    if status == 404:
        return missing(text)
    if status >= 500:
        return _server_error(status, body, text, write=write)
    if status >= 400:
        return errors.ProviderRefused(text)
    return errors.ProviderRefused(f"{text}: is VERS_BASE_URL the address of the platform?")


def _server_error(status: int, body: Any, text: str, *, write: bool) -> errors.ProviderError:
    """Classify a 5xx. A 500 in JSON is a definite failure; anything else may have succeeded."""
    if not write:
        return errors.ProviderUnavailable(text) if status != 501 else errors.ProviderError(text)
    clear = status in (500, 501) and body is not None
    if clear and not re.search(r"time(d )?.?out", text, re.IGNORECASE):
        return errors.ProviderError(text)
    return errors.OutcomeUnknown(f"{text}: it may have happened")


def _sentence(response: httpx.Response, body: Any, secret: str) -> str:
    message = body.get("error") if isinstance(body, dict) else None
    if not isinstance(message, str) or not message.strip():
        message = response.text if body is None else ""
    message = " ".join(without_secrets(message, secret).split())[:_MAX_TEXT] or "no reason given"
    number = response.headers.get("x-request-id", "")[:64]
    return f"Vers: {message} ({response.status_code}{', request ' + number if number else ''})"


def _seconds(response: httpx.Response) -> float | None:
    """Parse Retry-After, which is a number of seconds or a date."""
    given = response.headers.get("retry-after", "").strip()
    if given.isdigit():
        return float(given)
    try:
        until = parsedate_to_datetime(given)
    except ValueError:
        return None
    until = until if until.tzinfo else until.replace(tzinfo=UTC)
    return max(0.0, (until - clock.now()).total_seconds())
