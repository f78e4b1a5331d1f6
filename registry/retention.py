"""Retention rules for the rows of the registry."""

from __future__ import annotations

from reef_site.common.retention import Rule, days, retention_rules
from registry.models import Gap
from registry.services import GAP_RETENTION


def register() -> None:
    """Register the rule about outages."""
    retention_rules.register(
        Rule("outages of VMs", lambda: days(GAP_RETENTION.days), tables=(Gap,)), key="outages"
    )
