"""Default limits of lieutenants, which config has for the fleet and for parts of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from versconfig import config
from vmtree.models import Node

# Columns with a default in config, and its key.
LIMITS = {
    "stall_limit_seconds": "REEF_STALL_SECONDS",
    "tool_limit_seconds": "REEF_TOOL_SECONDS",
    "dialog_limit_seconds": "REEF_DIALOG_SECONDS",
    "limit_action": "REEF_LIMIT_ACTION",
    "sign_period_seconds": "REEF_SIGN_PERIOD_SECONDS",
    "sign_grace_seconds": "REEF_SIGN_GRACE_SECONDS",
}


def defaults_for(node: Node | None) -> dict[str, Any]:
    """Return the default of each limit for a node, or for the fleet. Raises BadValue."""
    return {
        column: config.text(key, node) if column == "limit_action" else config.integer(key, node)
        for column, key in LIMITS.items()
    }


def with_defaults(given: Mapping[str, Any], node: Node | None) -> dict[str, Any]:
    """Return the values; those of limits that are None get their defaults. Raises BadValue."""
    missing = [name for name, value in given.items() if name in LIMITS and value in (None, "")]
    if not missing:
        return dict(given)
    defaults = defaults_for(node)
    return {**given, **{name: defaults[name] for name in missing}}
