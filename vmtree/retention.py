"""Retention rules for the rows and files of the tree."""

from __future__ import annotations

from reef_site.common.retention import Rule, days, retention_rules
from vmtree.snapshot_models import Snapshot
from vmtree.snapshots.retention import KEEP_DAILY, KEEP_NEWEST


def register() -> None:
    """Register the rules of the tree."""
    retention_rules.register(
        Rule(
            "snapshots",
            lambda: f"the newest {KEEP_NEWEST} of each kind, one a day for {days(KEEP_DAILY.days)}",
            tables=(Snapshot,),
            folders=("snapshots",),
        ),
        key="snapshots",
    )
