"""Retention rule for executions of rules."""

from __future__ import annotations

from reef_site.common.retention import Rule, days, retention_rules
from registry.rules import engine
from registry.rules.models import Firing


def register() -> None:
    """Register the rule about rule executions."""
    retention_rules.register(
        Rule(
            "rule executions",
            lambda: f"{days(engine.RETENTION.days)} after they ended, if their subject is gone",
            tables=(Firing,),
        ),
        key="rule executions",
    )
