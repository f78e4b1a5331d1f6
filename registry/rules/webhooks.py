"""Webhook calls: a signed JSON body, with timeouts and without redirects."""

from __future__ import annotations

import hashlib
import hmac
import time

import httpx
import orjson

from reef_site.common import clock
from reef_site.common.errors import ReefError
from registry.rules import webhook_secret
from registry.rules.models import Firing, Rule
from versconfig.screening import sources

TIMEOUT = httpx.Timeout(10.0, connect=5.0)
SIGNATURE_HEADER = "Reef-Signature"
FIRING_HEADER = "Reef-Firing"


class WebhookFailed(ReefError):
    """The webhook did not accept the call; it is retried."""

    status = 502


def call(rule: Rule, firing: Firing) -> str:
    """Call the webhook of a rule; return its response as a sentence. Raises WebhookFailed.

    `Reef-Signature: t=<seconds>,v1=<hex>` is HMAC-SHA-256 of `<seconds>.<body>` with the secret.
    `Reef-Firing` is the same in every attempt, so that the receiver can detect repeats.
    """
    body = orjson.dumps(payload(rule, firing))
    headers = {
        "Content-Type": "application/json",
        "User-Agent": "reef",
        FIRING_HEADER: str(firing.pk),
    }
    if rule.sealed_secret:
        headers[SIGNATURE_HEADER] = sign(
            body, webhook_secret.decrypt(rule.sealed_secret), int(time.time())
        )
    try:
        with (
            httpx.Client(timeout=TIMEOUT, follow_redirects=False) as client,
            # The body is not read: only the status code matters.
            client.stream("POST", rule.webhook_url, content=body, headers=headers) as response,
        ):
            code = response.status_code
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise WebhookFailed(f"no answer: {type(error).__name__} {error}".strip()) from None
    if not 200 <= code < 300:
        raise WebhookFailed(f"answered {code}")
    return f"the webhook answered {code}"


def payload(rule: Rule, firing: Firing) -> dict[str, object]:
    """Return the body of a webhook call, with all secrets covered."""
    covered: dict[str, object] = sources.current(recheck=True).cover_value(_payload(rule, firing))
    return covered


def _payload(rule: Rule, firing: Firing) -> dict[str, object]:
    return {
        "firing": firing.pk,
        "rule": firing.rule_name,
        "event": firing.event,
        "vmId": firing.subject,
        "name": firing.subject_name,
        "since": clock.format_timestamp(firing.cause_at),
        "at": clock.format_timestamp(firing.at),
        "text": rule.text,
        "evidence": firing.evidence,
    }


def sign(body: bytes, key: str, at: int) -> str:
    """Return the signature header of a body that is sent at this Unix time."""
    digest = hmac.new(key.encode(), f"{at}.".encode() + body, hashlib.sha256).hexdigest()
    return f"t={at},v1={digest}"
