"""Requests to the root."""

from __future__ import annotations

import email.utils
import http.client
import json
import re
import time
import urllib.error
import urllib.request
from typing import Any, Dict, Optional

from .errors import VERSION, AgentError, Json, RootRefused, RootUnavailable

# Heartbeat interval in seconds: the root asks for one within these limits.
MIN_INTERVAL, DEFAULT_INTERVAL, MAX_INTERVAL = 1.0, 30.0, 3600.0
REQUEST_SECONDS = 20.0
MAX_RESPONSE_BYTES = 1 << 20


class NoRedirects(urllib.request.HTTPRedirectHandler):
    """Ignore redirects, so that the token is sent to the root only."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        """Follow no redirect."""


class RootClient:
    """A client of the root, with its address and our token."""

    def __init__(self, url: str, token: str) -> None:
        if not re.match(r"https?://[^/]", url):
            raise AgentError("VERS_INFRA_URL in identity.json is not the address of a roof")
        self.url = url.rstrip("/")
        self._token = token
        # Seconds by which this machine's clock is ahead of the root's; None while unknown.
        self.skew: Optional[float] = None
        self._opener = urllib.request.build_opener(NoRedirects)

    def request_json(
        self, method: str, path: str, body: Optional[Json] = None, seconds: float = 0
    ) -> Json:
        """Send a request and return the JSON object of the response.

        Raise RootUnavailable or RootRefused.
        """
        data = None if body is None else json.dumps(body).encode()
        headers = {"Authorization": "Bearer " + self._token, "Content-Type": "application/json"}
        headers["User-Agent"] = "reef-fleet-agent/" + VERSION
        request = urllib.request.Request(self.url + path, data=data, headers=headers, method=method)
        sent_at = time.time()
        try:
            with self._opener.open(request, timeout=seconds or REQUEST_SECONDS) as response:
                self.skew = skew_of(response.headers.get("Date", ""), sent_at, time.time())
                text = read_limited(response, seconds or REQUEST_SECONDS)
        except urllib.error.HTTPError as error:
            raise self._error_of(error) from None
        except (OSError, http.client.HTTPException) as error:
            why = getattr(error, "reason", error)
            raise RootUnavailable("{} does not answer: {}".format(self.url, why)) from None
        try:
            found = json.loads(text)
        except ValueError:
            raise RootUnavailable("{} does not answer like a reef".format(self.url)) from None
        return found if isinstance(found, dict) else {}

    def _error_of(self, error: urllib.error.HTTPError) -> AgentError:
        try:
            message = json.loads(read_limited(error, 5.0)).get("error", "")
        except (OSError, ValueError, AttributeError, http.client.HTTPException):
            message = ""
        finally:
            error.close()
        text = "{} answers {}{}".format(
            self.url, error.code, ": " + str(message) if message else ""
        )
        if error.code in (408, 429) or error.code >= 500 or 300 <= error.code < 400:
            return RootUnavailable(text, parse_retry_after(error.headers.get("Retry-After", "")))
        return RootRefused(text, error.code)


def read_limited(response: Any, seconds: float) -> bytes:
    """Read the body within limits of size and time. Raise OSError."""
    end, found = time.monotonic() + seconds, b""
    while True:
        piece: bytes = response.read(1 << 16)
        found += piece
        if not piece:
            return found
        if len(found) > MAX_RESPONSE_BYTES or time.monotonic() > end:
            raise OSError("the answer is too long, or too slow")


def skew_of(date: str, sent_at: float, received_at: float) -> Optional[float]:
    """Return by how many seconds our clock is ahead of a response's Date; None if there is no
    Date.
    """
    try:
        theirs = email.utils.parsedate_to_datetime(date).timestamp()
    except (TypeError, ValueError, IndexError):
        return None
    # Date has whole seconds, and was read somewhere between request and response.
    skew = (sent_at + received_at) / 2 - (theirs + 0.5)
    return round(skew, 1) if abs(skew) > 1.0 + (received_at - sent_at) else 0.0


def describe_skew(skew: float) -> str:
    """Describe the clock difference for the log."""
    units = ((86400.0, "days", 4), (3600.0, "h", 2), (60.0, "min", 2))
    fitting = [(size, unit) for size, unit, minimum in units if abs(skew) >= minimum * size]
    size, unit = fitting[0] if fitting else (1.0, "s")
    direction = "behind" if skew < 0 else "ahead of"
    text = "this machine's clock is {:.0f} {} {} reef's (by the Date of its answer)"
    return text.format(abs(skew) / size, unit, direction)


def parse_retry_after(text: str) -> float:
    """Parse Retry-After if it is a number; otherwise return 0."""
    return min(float(text), MAX_INTERVAL) if text.isdigit() else 0.0


def required(identity: Dict[str, str], name: str) -> str:
    """Return a value that identity.json must have. Raise AgentError."""
    if not identity.get(name):
        raise AgentError("identity.json has no {}".format(name))
    return identity[name]


def root_client(identity: Dict[str, str], token: str = "") -> RootClient:
    """Return a client of the root, with the VM's own token unless another is given."""
    return RootClient(required(identity, "VERS_INFRA_URL"), token or identity["VERS_AUTH_TOKEN"])
