"""Calls of webhooks: a signed JSON body, within a limit of time, without redirects."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import time
from collections.abc import Mapping
from dataclasses import dataclass

import httpx

from reef_site.common import webhook_secret
from reef_site.common.errors import ReefError
from reef_site.common.webhook_addresses import AddressCheck, AddressRefused

TIMEOUT = httpx.Timeout(10.0, connect=5.0)
# For the whole call: a receiver that sends a byte now and then would never reach the others.
LIMIT_SECONDS = 15.0
MAX_ANSWER = 1000
SIGNATURE_HEADER = "Reef-Signature"


class WebhookFailed(ReefError):
    """The receiver did not accept the call, which may be retried."""

    status = 502

    def __init__(self, problem: str, code: int | None = None, answer: str = "") -> None:
        """`code` and `answer` are the receiver's, if it answered."""
        super().__init__(problem)
        self.code, self.answer = code, answer


@dataclass(frozen=True)
class Answer:
    """A receiver's status code, and the beginning of its body."""

    code: int
    text: str


def call(
    url: str,
    body: bytes,
    headers: Mapping[str, str],
    sealed_secret: str = "",
    *,
    allow_loopback: bool = False,
) -> Answer:
    """Send a JSON body with POST. Raises WebhookFailed unless the receiver answers 2xx.

    With an encrypted secret, the call has a header `Reef-Signature`, see `sign`. Some addresses
    are refused, see `webhook_addresses`.
    """
    sent = {"Content-Type": "application/json", "User-Agent": "reef", **headers}
    # A small compressed body could be a huge one.
    sent["Accept-Encoding"] = "identity"
    if sealed_secret:
        secret = webhook_secret.decrypt(sealed_secret)
        sent[SIGNATURE_HEADER] = sign(body, secret, int(time.time()))
    try:
        post = _post(url, body, sent, allow_loopback=allow_loopback)
        answer = asyncio.run(asyncio.wait_for(post, LIMIT_SECONDS))
    except TimeoutError:
        raise WebhookFailed(f"no answer within {LIMIT_SECONDS:.0f} s") from None
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise WebhookFailed(f"no answer: {type(error).__name__} {error}".strip()) from None
    except AddressRefused as error:
        raise WebhookFailed(f"not called: {error}") from None
    if not 200 <= answer.code < 300:
        raise WebhookFailed(f"answered {answer.code}", answer.code, answer.text)
    return answer


async def _post(
    url: str, body: bytes, headers: Mapping[str, str], *, allow_loopback: bool
) -> Answer:
    check = AddressCheck(httpx.URL(url).raw_host.decode("ascii"), allow_loopback)
    await check.check_host()
    more = {"trace": check}
    async with (
        httpx.AsyncClient(timeout=TIMEOUT, follow_redirects=False) as client,
        client.stream("POST", url, content=body, headers=headers, extensions=more) as response,
    ):
        found = b""
        async for chunk in response.aiter_raw():
            found += chunk
            if len(found) >= MAX_ANSWER:
                break
        text = found[:MAX_ANSWER].decode("utf-8", "replace").replace("\0", "\ufffd")
        return Answer(response.status_code, text)


def sign(body: bytes, key: str, at: int) -> str:
    """Return `t=<seconds>,v1=<hex>`, where hex is HMAC-SHA-256 of `<seconds>.<body>`.

    `at` is the Unix time of the call.
    """
    digest = hmac.new(key.encode(), f"{at}.".encode() + body, hashlib.sha256).hexdigest()
    return f"t={at},v1={digest}"


def url_problem(text: str) -> str:
    """Return why the URL is not valid for a webhook; empty if it is."""
    try:
        url = httpx.URL(text)
    except httpx.InvalidURL as error:
        return f"is no address ({error})"
    if url.scheme not in ("http", "https") or not url.host:
        return "must begin with http:// or https:// and a host"
    if url.userinfo:
        return "must not hold a password; the signature's secret is kept apart"
    return ""
