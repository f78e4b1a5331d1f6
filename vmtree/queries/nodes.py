"""Nodes of the tree and their tokens."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any

from django.db import connection
from django.db.models import Func, TextField
from django.db.models.sql.compiler import SQLCompiler

from reef_site.common import clock
from reef_site.common.json_sql import date
from reef_site.common.queries import LoopConnection, fetch_listed, to_driver_time
from vmtree.models import LINKS, Node
from vmtree.queries import recursion

# Key, parent's key, VM id, name, parent's VM id, category, DNA as JSON, and the end of the node's
# JSON (see `JsonTail`).
NodeRow = Sequence[Any]
# In the order of the model's fields, as `from_db` wants them.
_PLACE_COLUMNS = ["id", "vm_id", "parent_id", "removed_at"]
_ROOTS = f"parent_id IS NULL AND {LINKS.living}"


# -- rows for JSON -------------------------------------------------------------------------------

# Dates are formatted by the database, which is faster than parsing and formatting them here.
_TAIL = (
    """',"createdAt":"' || {created} || '","updatedAt":"' || {updated} || '"'"""
    """ || coalesce(',"removedAt":"' || {removed} || '"', '')"""
    """ || coalesce(',"destroyed":true,"destroyedAt":"' || {destroyed} || '"', '') || '}}'"""
)
_NO_DATE = "CAST(NULL AS text)"


class JsonTail(Func):
    """The end of a node's JSON, from columns of a QuerySet: created, updated, removed, destroyed.

    The last two may be omitted.
    """

    output_field = TextField()

    def as_sql(self, compiler: SQLCompiler, db: Any, **_: Any) -> tuple[str, list[Any]]:  # type: ignore[override]
        """Compile the columns as this query names them."""
        compiled = [compiler.compile(each) for each in self.get_source_expressions()]
        return f"({_tail(*(sql for sql, _ in compiled))})", [
            one for _, all_ in compiled for one in all_
        ]


def _tail(created: str, updated: str, removed: str = "", destroyed: str = "") -> str:
    return _TAIL.format(
        created=date(created),
        updated=date(updated),
        removed=date(removed) if removed else _NO_DATE,
        destroyed=date(destroyed) if destroyed else _NO_DATE,
    )


def ancestor_rows(key: int) -> list[NodeRow]:
    """Return the node and its ancestors, oldest first."""
    return _rows_of_line(recursion.above(LINKS), [key])


def descendant_rows(
    key: int | None, *, depth: int | None, since: datetime | None, removed: bool
) -> list[NodeRow]:
    """Return the node (or all roots) and its descendants, oldest first.

    `depth` limits the levels below; `since` keeps only nodes changed then or later; `removed`
    includes removed nodes.
    """
    links = dataclasses.replace(LINKS, living="") if removed else LINKS
    roots = "parent_id IS NULL" if removed else _ROOTS
    sql = recursion.below(links, depth=depth is not None, start=roots if key is None else "")
    parameters = [*([] if key is None else [key]), *([] if depth is None else [depth])]
    return _rows_of_line(sql, parameters, since=since)


def _rows_of_line(
    sql: str, parameters: list[Any], *, since: datetime | None = None
) -> list[NodeRow]:
    """Return the nodes whose keys `line` holds, oldest first."""
    tail = _tail("n.created_at", "n.updated_at", "n.removed_at", "n.destroyed_at")
    changed = ""
    if since is not None:
        changed = " WHERE n.updated_at >= %s"
        parameters.append(to_driver_time(since))
    as_text = "::text" if connection.vendor == "postgresql" else ""
    statement = (
        f"{sql} SELECT n.id, n.parent_id, n.vm_id, n.name, p.vm_id, n.category,"
        f" n.reef_config{as_text}, {tail}"
        f" FROM {nodes_of_line()} LEFT JOIN {LINKS.table} p ON p.id = n.parent_id"
        f"{changed} ORDER BY n.created_at, n.id"
    )
    with connection.cursor() as cursor:
        cursor.execute(statement, parameters)
        return list(cursor.fetchall())


def nodes_of_line() -> str:
    """Return the FROM clause that joins the nodes `n` to the keys of `line`."""
    if connection.vendor == "postgresql":
        # Otherwise it overestimates the number of rows and joins the whole table.
        return (
            f"line CROSS JOIN LATERAL (SELECT * FROM {LINKS.table} WHERE id = line.key OFFSET 0) n"
        )
    return f"line JOIN {LINKS.table} n ON n.id = line.key"


# -- keys ----------------------------------------------------------------------------------------


def uppermost_keys(top: int | None, limit: int) -> list[int]:
    """Return keys breadth first, from the node `top` or all roots; LIMIT ends the recursion."""
    sql = recursion.below(LINKS, start=_ROOTS if top is None else "")
    with connection.cursor() as cursor:
        parameters = [*([] if top is None else [top]), limit]
        cursor.execute(f"{sql} SELECT key FROM line LIMIT %s", parameters)
        return [key for (key,) in cursor.fetchall()]


def descendant_vm_ids(key: int) -> set[str]:
    """Return the VM ids of the node and its descendants."""
    sql = recursion.below(LINKS)
    with connection.cursor() as cursor:
        cursor.execute(
            f"{sql} SELECT n.vm_id FROM line JOIN vmtree_node n ON n.id = line.key", [key]
        )
        return {vm_id for (vm_id,) in cursor.fetchall()}


def count_descendants_of_vms(vm_ids: Collection[str]) -> dict[str, int]:
    """Map the VMs that are in the tree to their numbers of descendants, in two queries."""
    nodes = Node.objects.active().filter(vm_id__in=vm_ids).values_list("vm_id", "pk")
    keys = dict(nodes)
    counts = recursion.count_descendants(LINKS, list(keys.values()))
    return {vm_id: counts[pk] for vm_id, pk in keys.items() if pk in counts}


def keys_of_vms_and_ancestors(vm_ids: Sequence[str]) -> set[int]:
    """Return the keys of the nodes with these ids, removed ones too, and of their ancestors."""
    if not vm_ids:
        return set()
    placeholders = ", ".join(["%s"] * len(vm_ids))
    return _with_ancestors(f"vm_id IN ({placeholders})", list(vm_ids))


def with_ancestors(keys: Sequence[int], most: int) -> set[int]:
    """Return the keys of these nodes and of at most `most` ancestors of each."""
    if not keys:
        return set()
    placeholders = ", ".join(["%s"] * len(keys))
    return _with_ancestors(f"id IN ({placeholders})", list(keys), most=most)


def _with_ancestors(start: str, parameters: list[Any], *, most: int | None = None) -> set[int]:
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


def places_of(vm_ids: Collection[str]) -> dict[str, Node]:
    """Map VM ids to their nodes, removed ones too, with nothing but keys, ids and parents.

    The other columns are deferred.
    """
    rest = (
        f"FROM {LINKS.table} n LEFT JOIN {LINKS.table} p ON p.id = n.parent_id"
        " WHERE n.vm_id IN {listed}"
    )
    rows = fetch_listed("n.id, n.vm_id, n.removed_at, p.id, p.vm_id", rest, vm_ids)
    found, alias = {}, connection.alias
    for key, vm_id, removed, above, above_vm_id in rows:
        removed_at = clock.parse_iso(removed) if isinstance(removed, str) else removed
        node = Node.from_db(alias, _PLACE_COLUMNS, [key, vm_id, above, removed_at])
        if above is not None:
            node.parent = Node.from_db(alias, _PLACE_COLUMNS[:2], [above, above_vm_id])
        found[vm_id] = node
    return found


# -- tokens and locks ----------------------------------------------------------------------------


def owners_of_tokens(
    digests: set[str], link: LoopConnection | None = None
) -> list[tuple[str, int, str]]:
    """Return (digest, key, VM id) of the active nodes that have these valid tokens."""
    rest = (
        "FROM vmtree_nodetoken t JOIN vmtree_node n ON n.id = t.node_id"
        " WHERE t.digest IN {listed} AND t.revoked_at IS NULL AND n.removed_at IS NULL"
    )
    rows = fetch_listed("t.digest, n.id, n.vm_id", rest, digests, link)
    return [(digest, key, vm_id) for digest, key, vm_id in rows]


def lock_table() -> None:
    """Lock out all other writers of nodes until commit. SQLite has a single writer anyway."""
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("LOCK TABLE vmtree_node IN EXCLUSIVE MODE")
