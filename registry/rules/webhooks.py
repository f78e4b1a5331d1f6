"""Webhook calls of rules."""

from __future__ import annotations

import orjson

from reef_site.common import clock, webhooks
from registry.rules.models import Firing, Rule
from versconfig.screening import sources

FIRING_HEADER = "Reef-Firing"


def call(rule: Rule, firing: Firing) -> str:
    """Call the webhook of a rule; return its response as a sentence. Raises WebhookFailed.

    It may be on this machine: nobody gets to see more of the answer than its status.
    `Reef-Firing` is the same in every attempt, so that the receiver can detect repeats.
    """
    body = orjson.dumps(payload(rule, firing))
    headers = {FIRING_HEADER: str(firing.pk)}
    answer = webhooks.call(rule.webhook_url, body, headers, rule.sealed_secret, allow_loopback=True)
    return f"the webhook answered {answer.code}"


def test(rule: Rule) -> webhooks.Answer:
    """Call the webhook of a rule without a firing. Raises WebhookFailed.

    Its header `Reef-Firing` is `test`.
    """
    cover = sources.current(recheck=True).cover_value
    facts = {"firing": None, "rule": rule.name, "event": "test", "vmId": "", "name": ""}
    now = clock.format_timestamp(clock.now())
    texts = {"since": now, "at": now, "text": "This is a test.", "evidence": {}}
    body = orjson.dumps(cover({**facts, **texts}))
    headers = {FIRING_HEADER: "test"}
    return webhooks.call(rule.webhook_url, body, headers, rule.sealed_secret, allow_loopback=True)


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
