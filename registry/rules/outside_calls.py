"""The call that tests the webhook of a rule."""

from __future__ import annotations

from typing import Any

from reef_site.common.outside import Kind, Line, call_kinds
from registry.rules import webhooks
from registry.rules.models import Rule

TEST = "rule-webhook-test"


def register() -> None:
    """Register the call."""
    call_kinds.register(Kind(_run, _lines), key=TEST)


def _run(rule_id: int) -> dict[str, Any]:
    """Return the receiver's status: it may be on this machine, so nobody sees more of its answer.

    Raises WebhookFailed.
    """
    return {"code": webhooks.test(Rule.objects.get(pk=rule_id)).code}


def _lines(result: dict[str, Any]) -> list[Line]:
    return [(True, f"The webhook answered {result['code']}.")]
