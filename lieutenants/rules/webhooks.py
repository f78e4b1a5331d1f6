"""Calls of webhooks: a JSON body, signed, with time limits and no redirects."""

from __future__ import annotations

import hashlib
import hmac
import time

import httpx
import orjson

from lieutenants.rules import secret
from lieutenants.rules.models import Firing, Rule
from reef_site.common import clock
from reef_site.common.errors import ReefError
from versconfig.screening import sources

TIMEOUT = httpx.Timeout(10.0, connect=5.0)
SIGNATURE = "Reef-Signature"
FIRING = "Reef-Firing"


class WebhookFailed(ReefError):
    """The webhook did not take it; it is tried again."""

    status = 502


def call(rule: Rule, firing: Firing) -> str:
    """Call the rule's webhook; what it answered. Raises WebhookFailed.

    `Reef-Signature: t=<seconds>,v1=<hex>` is HMAC-SHA-256 of `<seconds>.<body>` with the secret.
    `Reef-Firing` is the same in each try, so that a second one may be told from a second case.
    """
    body = orjson.dumps(payload(rule, firing))
    headers = {
        "Content-Type": "application/json",
        "User-Agent": "reef",
        FIRING: str(firing.pk),
    }
    if rule.sealed_secret:
        headers[SIGNATURE] = sign(body, secret.unseal(rule.sealed_secret), int(time.time()))
    try:
        with (
            httpx.Client(timeout=TIMEOUT, follow_redirects=False) as client,
            # Not read: only whether it was taken is of interest.
            client.stream("POST", rule.webhook_url, content=body, headers=headers) as answer,
        ):
            code = answer.status_code
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise WebhookFailed(f"no answer: {type(error).__name__} {error}".strip()) from None
    if not 200 <= code < 300:
        raise WebhookFailed(f"answered {code}")
    return f"the webhook answered {code}"


def payload(rule: Rule, firing: Firing) -> dict[str, object]:
    """What a webhook is told, without any secret."""
    told: dict[str, object] = sources.current(recheck=True).cover_value(_told(rule, firing))
    return told


def _told(rule: Rule, firing: Firing) -> dict[str, object]:
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
    """The header's value for a body sent at this second."""
    digest = hmac.new(key.encode(), f"{at}.".encode() + body, hashlib.sha256).hexdigest()
    return f"t={at},v1={digest}"
