"""Aggregate health: the worst state among the descendants of nodes, in one statement.

The query starts at the unhealthy VMs, which are few, and walks up from them, so a healthy fleet of
100,000 costs nothing, and shared ancestors are visited once for each state.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from django.db import connection

from reef_site.dashboard.states import RANKS, WORDS

# Key of the row above all roots.
ROOF = 0


def worst_descendant_states(keys: Sequence[int], at: datetime, *, grace: bool) -> dict[int, str]:
    """Map nodes to the worst state of their descendants, if any is paused or worse."""
    now = connection.ops.adapt_datetimefield_value(at)
    silent = RANKS["late"] if grace else RANKS["silent"]
    placeholders = ", ".join(["%s"] * len(keys)) or "NULL"
    sql = (
        f"WITH RECURSIVE trouble(parent, level) AS ({_UNHEALTHY}),"
        f" line(key, level) AS ({_upwards()})"
        f" SELECT key, max(level) FROM line WHERE key IN ({placeholders}) GROUP BY key"
    )
    with connection.cursor() as cursor:
        cursor.execute(sql, [now, silent, now, *keys])
        found: list[tuple[Any, Any]] = cursor.fetchall()
    return {key: WORDS[level] for key, level in found}


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


def with_ancestors(vm_ids: Sequence[str]) -> set[int]:
    """Return the keys of the nodes with these ids, removed ones too, and of their ancestors."""
    if not vm_ids:
        return set()
    placeholders = ", ".join(["%s"] * len(vm_ids))
    return _keys(f"vm_id IN ({placeholders})", list(vm_ids))


def ancestors(keys: Sequence[int], most: int) -> set[int]:
    """Return the keys of these nodes and of at most `most` ancestors of each."""
    if not keys:
        return set()
    placeholders = ", ".join(["%s"] * len(keys))
    return _keys(f"id IN ({placeholders})", list(keys), most=most)


def _keys(start: str, parameters: list[Any], *, most: int | None = None) -> set[int]:
    depth_column = "" if most is None else ", depth"
    first, step = ("", "") if most is None else (", 0", ", line.depth + 1")
    limit = "" if most is None else f" AND line.depth < {most:d}"
    sql = (
        f"WITH RECURSIVE line(key, parent{depth_column}) AS"
        f" (SELECT id, parent_id{first} FROM vmtree_node WHERE {start} UNION"
        f" SELECT n.id, n.parent_id{step} FROM line"
        f" CROSS JOIN {_node_join('line.parent')}{limit}) SELECT DISTINCT key FROM line"
    )
    with connection.cursor() as cursor:
        cursor.execute(sql, parameters)
        return {key for (key,) in cursor.fetchall()}


def _node_join(key: str) -> str:
    """Return the SQL of a join to the node with this key; it ends in a condition."""
    if connection.vendor == "postgresql":
        node = f"SELECT id, parent_id FROM vmtree_node WHERE id = {key} OFFSET 0"
        return f"LATERAL ({node}) n WHERE TRUE"
    return f"vmtree_node n WHERE n.id = {key}"
