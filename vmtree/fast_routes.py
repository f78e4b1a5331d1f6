"""Reads of the tree that the edge answers itself: SQL for what `vmtree.api` answers."""

from __future__ import annotations

import dataclasses
from datetime import datetime, timedelta
from functools import partial

import orjson
from django.db import connection

from reef_site.common import json_sql
from reef_site.common.clock import format_timestamp
from reef_site.common.fast_routes import KEY, PLAIN, FastRoute, fast_routes, flag, moment, plain
from reef_site.common.json_format import dumps
from reef_site.common.json_sql import json_list, parameter
from vmtree import dna, json_rows, lineage
from vmtree.models import LINKS, Trait
from vmtree.queries import recursion
from vmtree.queries.nodes import nodes_of_line
from vmtree.serializers import NodeResponse

NOT_FOUND, BOTH_NOT_FOUND = "VM not found", "One or both VMs not found"
# Subtracted from `until` of a flat tree: transactions that are open now may commit older rows.
UNTIL_OVERLAP = timedelta(seconds=5)
_VM = rf"/vm-tree/vms/{KEY}"
_FOUND = "vm_id = q.value AND removed_at IS NULL"
_ACTIVE = "WHERE n.vm_id = q.value AND n.removed_at IS NULL"
_PARENT = "LEFT JOIN vmtree_node p ON p.id = n.parent_id"
_EXISTS = f"EXISTS (SELECT 1 FROM vmtree_node WHERE {_FOUND})"
_BY_AGE = "ORDER BY n.created_at, n.id"


def _node() -> str:
    """Return the expression of a node's JSON, from the node `n` and its parent `p`."""
    return json_sql.json_object(
        NodeResponse,
        "n",
        sources={"parentVmId": json_sql.text("p.vm_id"), "destroyed": "'true'"},
        present={
            "removedAt": "n.removed_at IS NOT NULL",
            "destroyed": "n.destroyed_at IS NOT NULL",
            "destroyedAt": "n.destroyed_at IS NOT NULL",
        },
    )


def _rows(condition: str) -> str:
    """Return a query of active nodes, oldest first, as JSON."""
    return (
        f"SELECT {_node()} AS json FROM vmtree_node n {_PARENT}"
        f" WHERE n.removed_at IS NULL AND {condition} {_BY_AGE}"
    )


def _one() -> str:
    return f"(SELECT {_node()} FROM vmtree_node n {_PARENT} {_ACTIVE})"


def _children() -> str:
    above = f"n.parent_id = (SELECT id FROM vmtree_node WHERE {_FOUND})"
    return f"CASE WHEN {_EXISTS} THEN {json_list('children', _rows(above), counted=False)} END"


def _with(kind: str) -> str:
    """Return the response of a search for nodes with an organ or capability."""
    # DNA may name a thing twice. As a list behind IN, SQLite would look into it for each node.
    named = f"SELECT DISTINCT node_id FROM vmtree_trait WHERE kind = '{kind}' AND name = q.value"
    return json_list(
        "vms",
        f"SELECT {_node()} AS json FROM ({named}) t"
        f" JOIN vmtree_node n ON n.id = t.node_id {_PARENT} WHERE n.removed_at IS NULL {_BY_AGE}",
    )


def _some(condition: str) -> str:
    return json_list("vms", _rows(condition))


def _pieces_of_line(line: str, condition: str = "TRUE") -> str:
    """Return the nodes of a recursive query as pieces, oldest first."""
    rows = f"FROM {nodes_of_line()} {_PARENT} WHERE {condition} {_BY_AGE}"
    # The recursion belongs to the outer SELECT of the subquery.
    return f"({line} {json_sql.pieces('n.id', 'n.parent_id', _node(), rows)[1:]}"


def _line_of_ancestors() -> str:
    return _pieces_of_line(recursion.above(LINKS, start=_FOUND))


def _line_of_descendants() -> str:
    return _pieces_of_line(recursion.below(LINKS, start=_FOUND))


def _nodes(condition: str = "n.removed_at IS NULL") -> str:
    """Return nodes as pieces, oldest first."""
    rows = f"FROM vmtree_node n {_PARENT} WHERE {condition} {_BY_AGE}"
    return json_sql.pieces("n.id", "n.parent_id", _node(), rows)


def _whole_tree() -> str:
    return json_sql.headed("'tree'", _nodes())


def _subtree() -> str:
    count = "(SELECT count(*) FROM vmtree_node WHERE removed_at IS NULL)"
    return json_sql.headed(count, _line_of_descendants())


def _flat() -> str:
    """Return the nodes of the tree or of a subtree, or those of them that changed since."""
    root, since = json_sql.part(0), json_sql.part(1)
    if connection.vendor == "postgresql":
        since = f"{since}::timestamptz"
    changed = f"n.updated_at >= {since}"
    start = f"vm_id = {root} AND removed_at IS NULL"
    everyone = dataclasses.replace(LINKS, living="")
    cases = {
        f"{root} IS NULL AND {since} IS NULL": _nodes(),
        f"{root} IS NULL": _nodes(changed),
        f"{since} IS NULL": _pieces_of_line(recursion.below(LINKS, start=start)),
    }
    whens = " ".join(f"WHEN {condition} THEN {pieces}" for condition, pieces in cases.items())
    line = recursion.below(everyone, start=start)
    return json_sql.headed(
        parameter("until"), f"CASE {whens} ELSE {_pieces_of_line(line, changed)} END"
    )


def _until(at: datetime) -> dict[str, str]:
    return {"until": format_timestamp(at - UNTIL_OVERLAP)}


def _compositions() -> str:
    """Return the composition of both nodes; null if one is missing."""
    texts = []
    for place in range(2):
        column = "n.reef_config"
        if connection.vendor == "postgresql":
            column += "::text"
        texts.append(
            f"(SELECT coalesce({column}, 'null') FROM vmtree_node n"
            f" WHERE n.vm_id = {json_sql.part(place)} AND n.removed_at IS NULL)"
        )
    return f"('[' || {texts[0]} || ',' || {texts[1]} || ']')"


def _counts() -> str:
    """Return the number of nodes, roots and destroyed ones, and those of each category."""
    categories = (
        "SELECT '\"' || n.category || '\":' || count(*) AS json, n.category FROM vmtree_node n"
        " WHERE n.removed_at IS NULL GROUP BY n.category ORDER BY n.category"
    )
    destroyed = """CASE WHEN count(n.destroyed_at) > 0
        THEN ',"destroyed":' || count(n.destroyed_at) ELSE '' END"""
    return (
        """(SELECT '{"total":' || count(*) || ',"byCategory":{' || """
        f"coalesce({json_sql.joined(categories)}, '')"
        """ || '},"roots":' || (count(*) - count(n.parent_id)) || """
        f"{destroyed} || '}}' FROM vmtree_node n WHERE n.removed_at IS NULL)"
    )


def _ancestors(found: bytes, _: str) -> bytes:
    """Return the response: the ancestors from the root down to the node itself."""
    rows = json_sql.split(found)
    by_key = {row.key: row for row in rows}
    parents = {row.key: row.parent for row in rows}
    # The only one that is nobody's parent.
    start = (by_key.keys() - set(parents.values())).pop()
    line = [by_key[key] for key in lineage.path_to(start, parents)]
    return f'{{"ancestors":{json_rows.json_list(line)}}}'.encode()


def _descendants(found: bytes, _: str) -> bytes:
    """Return the response: the descendants breadth first, without the node itself."""
    rows = json_sql.split(found)
    keys = {row.key for row in rows}
    start = next(row.key for row in rows if row.parent not in keys)
    below = json_rows.breadth_first(rows, start)[1:]
    return f'{{"descendants":{json_rows.json_list(below)}}}'.encode()


def _tree(found: bytes, _: str) -> bytes:
    """Return the response: the nested tree."""
    _, rows = json_sql.split_headed(found)
    return f'{{"tree":{json_rows.json_tree(rows)},"count":{len(rows)}}}'.encode()


def _tree_of_root(found: bytes, _: str) -> bytes:
    """Return the response: the nested subtree, and the number of all nodes."""
    count, rows = json_sql.split_headed(found)
    keys = {row.key for row in rows}
    top = next((row.key for row in rows if row.parent not in keys), "")
    return f'{{"tree":{json_rows.json_tree(rows, top)},"count":{count}}}'.encode()


def _list(found: bytes, _: str) -> bytes:
    """Return the response: the nodes oldest first, and the `since` of the next request."""
    until, rows = json_sql.split_headed(found)
    return f'{{"vms":{json_rows.json_list(rows)},"count":{len(rows)},"until":"{until}"}}'.encode()


def _diff(found: bytes, _: str) -> bytes:
    """Return the response: what the second node adds and lacks."""
    return dumps(dna.diff(*orjson.loads(found)))


_route = partial(FastRoute, of_tree=True)
ROUTES = {
    "tree.node": _route(rf"{_VM}/?", _one, NOT_FOUND),
    "tree.nodes": _route(r"/vm-tree/vms/?", lambda: _some("TRUE"), large=True),
    "tree.by-category": _route(
        rf"/vm-tree/vms/?\?category={PLAIN}", lambda: _some("n.category = q.value"), large=True
    ),
    "tree.by-parent": _route(
        rf"/vm-tree/vms/?\?parentVmId={PLAIN}",
        lambda: _some("n.parent_id = (SELECT id FROM vmtree_node WHERE vm_id = q.value)"),
    ),
    "tree.ancestors": _route(rf"{_VM}/ancestors/?", _line_of_ancestors, NOT_FOUND, _ancestors),
    "tree.descendants": _route(
        rf"{_VM}/descendants/?", _line_of_descendants, NOT_FOUND, _descendants
    ),
    "tree.children": _route(rf"{_VM}/children/?", _children, NOT_FOUND),
    "tree.diff": _route(rf"{_VM}/diff/{KEY}/?", _compositions, BOTH_NOT_FOUND, _diff),
    "tree.stats": _route(r"/vm-tree/stats/?", _counts),
    "tree.tree": _route(r"/vm-tree/tree/?", _whole_tree, finish=_tree, large=True),
    "tree.root": _route(rf"/vm-tree/tree/?\?root={PLAIN}", _subtree, finish=_tree_of_root),
    # The time in the response is always another one, so it is not remembered.
    "tree.flat": FastRoute(
        r"/vm-tree/tree/?",
        _flat,
        finish=_list,
        large=True,
        query={"root": plain, "since": moment, "flat": flag},
        values=_until,
    ),
    **{
        f"tree.find-{kind}": _route(rf"/vm-tree/find/{kind}/{KEY}/?", partial(_with, kind))
        for kind in Trait.Kind.values
    },
}


def register() -> None:
    """Add these routes to those of the edge."""
    for key, route in ROUTES.items():
        fast_routes.register(route, key=key)
