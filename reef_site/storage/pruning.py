"""Deletes what is older than the retention rules say."""

from __future__ import annotations

import logging

from reef_site.common.retention import retention_rules

logger = logging.getLogger(__name__)


def prune() -> dict[str, int]:
    """Apply all rules; return how many rows each one deleted or shortened.

    One that fails does not prevent the others.
    """
    counts = {}
    for key, rule in retention_rules.items():
        if rule.prune is None:
            continue
        try:
            counts[key] = rule.prune()
        except Exception:
            logger.exception("the retention of %s failed", key)
            continue
        if counts[key]:
            logger.info("retention: %s, %d rows", key, counts[key])
    return counts
