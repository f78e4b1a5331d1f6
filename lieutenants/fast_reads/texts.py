"""SQL for parts of long texts, and what Python makes of it; the counterpart of `outputs`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from django.db import connection

from lieutenants.transcript import outputs
from lieutenants.transcript.outputs import Ending, Excerpt
from reef_site.common import json_sql

_END = {"sqlite": "substr({column}, -({count}))", "postgresql": "right({column}, ({count})::int)"}
# Texts of failed attempts that were retried, see `write_batch.is_retried`.
_RETRIED = {
    "sqlite": "json_extract({alias}.data, '$.retried')",
    "postgresql": "coalesce({alias}.data -> 'retried' = 'true', FALSE)",
}
_NO_LIMITS = "CAST(NULL AS bigint) AS after_id, CAST(NULL AS bigint) AS before_id"
_HAS_KEY = {
    "sqlite": "json_type({column}, '$.{key}') IS NOT NULL",
    "postgresql": "jsonb_exists({column}, '{key}')",
}


def has_key(column: str, key: str) -> str:
    """Return a condition: whether a column with a JSON object has the key."""
    return _HAS_KEY[connection.vendor].format(column=column, key=key)


def excerpt(column: str, most: str) -> tuple[str, str, str]:
    """Return expressions for the arguments of `outputs.excerpt`; `most` is an expression, too."""
    size, half = f"length({column})", f"({most}) / 2"
    is_short = f"{size} <= {most}"
    head = f"CASE WHEN {is_short} THEN {column} ELSE substr({column}, 1, {half}) END"
    tail = f"CASE WHEN NOT {is_short} THEN substr({column}, {size} - {half} + 1, {half}) END"
    return size, head, tail


def end_of(column: str, count: str) -> str:
    """Return an expression for the last characters of a text; `count` is one, too."""
    return _END[connection.vendor].format(column=column, count=count)


def running(mine: str, count: str) -> str:
    """Return a query for the ends of the running answers of lieutenants, for `endings`."""
    turns = (
        f"SELECT max(a.id) AS id, {_NO_LIMITS} FROM {mine} m"
        " JOIN lieutenants_answer a ON a.lieutenant_id = m.id AND a.outcome = 'open'"
        " GROUP BY a.lieutenant_id"
    )
    columns = json_sql.values("a.lieutenant_id", "t.entry_id", "t.size", "t.text")
    return (
        f"SELECT {columns} AS json FROM ({pieces_of_turns(turns, count)}) t"
        " JOIN lieutenants_answer a ON a.id = t.turn ORDER BY t.turn, t.entry_id, t.chunk_id"
    )


def pieces_of_turns(turns: str, count: str) -> str:
    """Return a query for the last `count` characters of the texts of turns, for `endings`.

    `turns` is a query with the columns `id` (an answer), `after_id` and `before_id` (only entries
    between these are part of it; null is no limit). The columns of the result are `turn`,
    `entry_id`, `chunk_id`, `size` and `text`; the first three give the order of the text. Entries
    that are not final have chunks.
    """
    vendor = connection.vendor
    entries = (
        "turn JOIN lieutenants_entry e ON e.answer_id = turn.id AND e.kind = 'text'"
        " AND (turn.after_id IS NULL OR e.id > turn.after_id)"
        " AND (turn.before_id IS NULL OR e.id < turn.before_id)"
    )
    is_shown = f"NOT coalesce({_RETRIED[vendor].format(alias='e')}, FALSE)"
    ends = {name: end_of(f"{name}.text", count) for name in "ec"}
    return (
        f"WITH turn AS ({turns}), piece AS ("
        "SELECT turn.id AS turn, e.id AS entry_id, 0 AS chunk_id, length(e.text) AS size"
        f" FROM {entries} WHERE e.final AND {is_shown} UNION ALL"
        " SELECT turn.id, e.id, c.id, length(c.text)"
        f" FROM {entries} JOIN lieutenants_chunk c ON c.entry_id = e.id"
        f" WHERE NOT e.final AND {is_shown}), placed AS (SELECT piece.*, sum(size) OVER"
        " (PARTITION BY turn ORDER BY entry_id DESC, chunk_id DESC) - size AS behind FROM piece)"
        f" SELECT p.turn, p.entry_id, p.chunk_id, p.size, CASE WHEN p.behind >= {count} THEN NULL"
        f" WHEN p.chunk_id = 0 THEN (SELECT {ends['e']} FROM lieutenants_entry e"
        " WHERE e.id = p.entry_id)"
        f" ELSE (SELECT {ends['c']} FROM lieutenants_chunk c WHERE c.id = p.chunk_id) END AS text"
        " FROM placed p"
    )


def endings(rows: Iterable[list[Any]]) -> dict[Any, Ending]:
    """Map keys to the ends of their texts; each row has a key, then a piece for `ending_of`."""
    pieces: dict[Any, list[tuple[int, int, str | None]]] = {}
    for key, entry_id, size, text in rows:
        pieces.setdefault(key, []).append((entry_id, size, text))
    return {key: outputs.ending_of(mine) for key, mine in pieces.items()}


def excerpts(rows: Iterable[list[Any]]) -> dict[Any, list[Excerpt]]:
    """Map keys to excerpts in the order of the rows: each has a key, size, head and tail."""
    found: dict[Any, list[Excerpt]] = {}
    for key, size, head, tail in rows:
        found.setdefault(key, []).append(outputs.excerpt(size, head, tail))
    return found
