"""Raw SQL of the pages: what reads the tables of several apps at once."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from django.db import connection

from reef_site.common.queries import to_driver_time
from reef_site.dashboard.states import RANKS


def worst_descendant_ranks(
    keys: Sequence[int], at: datetime, *, silent_rank: int
) -> dict[int, int]:
    """Map nodes to the highest rank (see `states.RANKS`) of their descendants, from paused on.

    The query starts at the unhealthy VMs, which are few, and walks up from them, so a healthy fleet
    of 100,000 costs nothing, and shared ancestors are visited once for each state.
    """
    now = to_driver_time(at)
    placeholders = ", ".join(["%s"] * len(keys)) or "NULL"
    sql = (
        f"WITH RECURSIVE trouble(parent, level) AS ({_UNHEALTHY}),"
        f" line(key, level) AS ({_upwards()})"
        f" SELECT key, max(level) FROM line WHERE key IN ({placeholders}) GROUP BY key"
    )
    with connection.cursor() as cursor:
        cursor.execute(sql, [now, silent_rank, now, *keys])
        return dict(cursor.fetchall())


# Running VMs have deadlines, others have none: an index finds both.
_UNHEALTHY = f"""
    SELECT DISTINCT n.parent_id, CASE
        WHEN v.status = 'paused' THEN {RANKS["paused"]} WHEN v.status <> 'running'
        THEN {RANKS["stopped"]} WHEN v.silent_after <= %s THEN %s ELSE {RANKS["late"]} END
    FROM registry_vm v JOIN vmtree_node n ON n.vm_id = v.id
    WHERE n.removed_at IS NULL AND (v.late_after <= %s OR v.late_after IS NULL)
    UNION SELECT n.parent_id, {RANKS["error"]}
    FROM lieutenants_lieutenant l JOIN vmtree_node n ON n.vm_id = l.id
    WHERE l.status = 'error' AND n.removed_at IS NULL"""


def _upwards() -> str:
    """Return the SQL that walks from the parents of unhealthy VMs to the roots."""
    if connection.vendor == "postgresql":
        # Without LATERAL, each step of the recursion would join the whole table.
        next_one = (
            "line CROSS JOIN LATERAL (SELECT parent_id FROM vmtree_node"
            " WHERE id = line.key OFFSET 0) n"
        )
    else:
        next_one = "line JOIN vmtree_node n ON n.id = line.key"
    return f"SELECT parent, level FROM trouble UNION SELECT n.parent_id, line.level FROM {next_one}"
