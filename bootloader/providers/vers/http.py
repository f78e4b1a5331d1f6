"""Send one request to the platform, with current key and address, time-outs and retries.

Reads are retried after anything temporary. Changes are retried only if they surely did not arrive
or were rate-limited (429); otherwise the outcome is unknown.
"""

from __future__ import annotations

import logging
import os
import random
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any
from urllib.parse import urlsplit

import httpx
from django.conf import settings

from bootloader import exceptions as errors
from bootloader.providers.vers import responses
from reef_site.common.errors import ReefError
from versconfig import config
from vmtree.models import Node

logger = logging.getLogger(__name__)

PUBLIC_URL = "https://api.vers.sh"
QUICK_SECONDS = 10.0
SLOW_SECONDS = 300.0
_CONNECT = 5.0
_MAX_ATTEMPTS = 4
_FIRST_PAUSE = 0.5
# Maximum pause here; callers may come back later.
_MAX_PAUSE = 10.0
_TEMPORARY = frozenset({429, 500, 502, 503, 504})


@dataclass(frozen=True)
class Account:
    """The platform's address and our key."""

    base: str
    key: str = field(repr=False)

    @property
    def owner(self) -> str:
        """Return the owner id that the platform shows for VMs made with this key."""
        return self.key[:36].lower()


@dataclass(frozen=True)
class PlatformRequest:
    """A request.

    `write`: changes something. `missing`: meaning of 404. `again`: retryable statuses.
    """

    method: str
    path: str
    query: Mapping[str, str | int] = field(default_factory=dict)
    body: Mapping[str, Any] | None = None
    write: bool = False
    slow: bool = False
    missing: type[errors.ProviderRefused] = errors.NoSuchMachine
    again: frozenset[int] = _TEMPORARY

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


def account(node: Node | None = None) -> Account:
    """Return the account configured now for the node, or for the fleet. Raise ProviderRefused."""
    try:
        base = config.text("VERS_BASE_URL", node)
        key = config.secret("VERS_API_KEY", node)
    except ReefError as error:
        raise errors.ProviderRefused(str(error)) from None
    if not key:
        raise errors.BadProviderKey("No VERS_API_KEY is set")
    if not (key.isascii() and key.isprintable() and " " not in key):
        raise errors.BadProviderKey("VERS_API_KEY has characters that no key has")
    return Account(base_url(base or PUBLIC_URL), key)


def base_url(given: str) -> str:
    """Return the base address of all paths. `given` may include `/api/v1`."""
    trimmed = given.strip().rstrip("/").removesuffix("/api/v1").rstrip("/")
    try:
        parts = urlsplit(trimmed)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        good = False
    if not good or parts.query or parts.fragment or parts.username:
        raise errors.ProviderRefused("VERS_BASE_URL is not the address of a platform")
    return f"{trimmed}/api/v1"


def send(request: PlatformRequest, target: Account) -> httpx.Response:
    """Return a response of status 200 to 299. Raise subclasses of ProviderError."""
    for number in range(1, _MAX_ATTEMPTS + 1):
        try:
            return _attempt(request, target)
        except _Retry as again:
            # Random pauses spread the retries of callers that were rate-limited together.
            pause = (again.pause or 0.0) + _pause(number)
            if number == _MAX_ATTEMPTS or pause > _MAX_PAUSE:
                raise again.error from None
            logger.info("%s: %s; again in %.1f s", request, again.error, pause)
            time.sleep(pause)
    raise AssertionError("unreachable")


class _Retry(Exception):
    """The error may be temporary: try again."""

    def __init__(self, error: errors.ProviderError, pause: float | None = None) -> None:
        super().__init__()
        self.error, self.pause = error, pause


def _pause(number: int) -> float:
    return _FIRST_PAUSE * float(2 ** (number - 1)) * random.uniform(0.75, 1.25)  # noqa: S311


def _attempt(request: PlatformRequest, target: Account) -> httpx.Response:
    request_id = str(uuid.uuid4())
    try:
        response = _send(request, target, request_id)
    except (httpx.ConnectError, httpx.ConnectTimeout, httpx.ProxyError) as error:
        raise _Retry(errors.ProviderUnavailable(_connection_error(error, target))) from None
    except (httpx.UnsupportedProtocol, httpx.LocalProtocolError, httpx.InvalidURL) as error:
        raise errors.ProviderRefused(_connection_error(error, target)) from None
    except httpx.HTTPError as error:
        if request.write:
            text = (
                f"{_connection_error(error, target)} (request {request_id}): it may have happened"
            )
            logger.warning("%s: %s", request, text)
            raise errors.OutcomeUnknown(text) from None
        raise _Retry(errors.ProviderUnavailable(_connection_error(error, target))) from None
    if response.is_success:
        return response
    raise _refused(request, response, target)


def _refused(request: PlatformRequest, response: httpx.Response, target: Account) -> Exception:
    error = responses.error_of(
        response, write=request.write, missing=request.missing, secret=target.key
    )
    logger.info("%s: %s", request, error)
    if isinstance(error, errors.RateLimited):
        return _Retry(error, error.seconds)
    if not request.write and response.status_code in request.again:
        return _Retry(error)
    return error


def _send(request: PlatformRequest, target: Account, number: str) -> httpx.Response:
    timeout = SLOW_SECONDS if request.slow else QUICK_SECONDS
    return _http(os.getpid()).request(
        request.method,
        target.base + request.path,
        params=dict(request.query),
        json=request.body,
        headers={"Authorization": f"Bearer {target.key}", "X-Request-ID": number},
        timeout=httpx.Timeout(timeout, connect=min(_CONNECT, timeout)),
    )


@cache
def _http(_pid: int) -> httpx.Client:
    """Return the HTTP client of this process.

    Connections are not reused: on a connection that the platform has just closed we could not tell
    whether a request had arrived.
    """
    return httpx.Client(
        limits=httpx.Limits(max_keepalive_connections=0),
        headers={"User-Agent": f"reef/{settings.VERSION}", "Accept": "application/json"},
    )


def _connection_error(error: Exception, target: Account) -> str:
    message = responses.without_secrets(str(error), target.key) or type(error).__name__
    return f"Vers at {target.base} cannot be reached: {message}"
