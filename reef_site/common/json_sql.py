"""SQL expressions that make JSON in the wire format, by the field lists of responses.

The database writes the text of a response, and Python only passes it on. Expressions are made of
the names of our own tables and columns, and depend on the database in use (`connection.vendor`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from django.db import connection
from rest_framework.fields import Field

from reef_site.common.api.fields import Choice, JsonValue, Timestamp
from reef_site.common.api.serializers import ResponseBody

# Between the pieces of a list, and between the parts of a piece: never inside of JSON.
PIECE_END, PART_END = "\x1e", "\x1f"


class Piece(NamedTuple):
    """A row's key, its parent's key (None for a root), and its JSON."""

    key: Any
    parent: Any
    text: str


_DATE = {
    # A whole second is stored without its fraction.
    "sqlite": """replace(substr({column} || '.000', 1, 23), ' ', 'T') || 'Z'""",
    "postgresql": """to_char({column} AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS') || 'Z'""",
}
_TEXT = {"sqlite": "json_quote({column})", "postgresql": "to_json({column})::text"}
# SQLite has it as it was written. `queries.fetch_json` removes the blanks of PostgreSQL.
_STORED = {"sqlite": "{column}", "postgresql": "chr(29) || {column}::text || chr(29)"}
_JOIN = {"sqlite": "group_concat({text}, {between})", "postgresql": "string_agg({text}, {between})"}
_COMMA = "','"
_CHAR = {"sqlite": "char({code})", "postgresql": "chr({code})"}
# The psycopg driver reads a single percent sign as that of a parameter.
_FORM = {"sqlite": "%s", "postgresql": "%%s"}
_FORMAT = {"sqlite": "printf", "postgresql": "format"}
_PARAMETER = {"sqlite": ":{name}", "postgresql": "%({name})s"}
_PART = {
    "sqlite": "json_extract(q.value, '$[{place}]')",
    "postgresql": "(q.value::json ->> {place})",
}
_PART_AS_NUMBER = {"sqlite": _PART["sqlite"], "postgresql": f"{_PART['postgresql']}::bigint"}


def parameter(name: str) -> str:
    """Return the placeholder of a named parameter."""
    return _PARAMETER[connection.vendor].format(name=name)


def part(place: int) -> str:
    """Return an expression for a part of a key that is a JSON list, as text."""
    return _PART[connection.vendor].format(place=place)


def number_part(place: int) -> str:
    """Return an expression for a part of a key that is a JSON list, as a number."""
    return _PART_AS_NUMBER[connection.vendor].format(place=place)


def date(column: str) -> str:
    """Return an expression for a time in the wire format, without quotes."""
    return _DATE[connection.vendor].format(column=column)


def text(column: str) -> str:
    """Return an expression for a column of text, or null."""
    return f"coalesce({_TEXT[connection.vendor].format(column=column)}, 'null')"


def json_object(
    response: type[ResponseBody],
    alias: str,
    *,
    sources: Mapping[str, str] | None = None,
    present: Mapping[str, str] | None = None,
) -> str:
    """Return an expression for the JSON of one row of the table `alias`.

    `sources` has expressions of JSON for fields that are not just a column. `present` has the
    conditions of optional fields, which are absent otherwise. The first field is always there.
    """
    form, values, sources, present = "", [], sources or {}, present or {}
    for name, field in response().fields.items():
        value, quote = _value(field, f"{alias}.{field.source}")
        if name in sources:
            value, quote = sources[name], ""
        start = f"""{"," if form else "{"}"{name}":{quote}"""
        if name in present:
            value = f"CASE WHEN {present[name]} THEN '{start}' || {value} || '{quote}' ELSE '' END"
            start = quote = ""
        form += f"{start}{_FORM[connection.vendor]}{quote}"
        values.append(value)
    # One call: each further concatenation would copy what is there already.
    return f"{_FORMAT[connection.vendor]}('{form}}}', {', '.join(values)})"


def _value(field: Field[object, object, object, object], column: str) -> tuple[str, str]:
    """Return the expression of a column's JSON, and the quotes that belong around it."""
    vendor, quote = connection.vendor, ""
    if isinstance(field, Timestamp):
        value, quote = date(column), '"'
    elif isinstance(field, JsonValue):
        value = _STORED[vendor].format(column=column)
    elif isinstance(field, Choice):
        # Our own words, which a constraint of the table checks.
        value, quote = column, '"'
    else:
        value = _TEXT[vendor].format(column=column)
    if field.allow_null:
        value = f"'{quote}' || {value} || '{quote}'" if quote else value
        return f"coalesce({value}, 'null')", ""
    return value, quote


def values(*expressions: str) -> str:
    """Return an expression for a JSON list of values, for Python to read: it may have blanks."""
    listed = ", ".join(expressions)
    if connection.vendor == "postgresql":
        return f"json_build_array({listed})::text"
    return f"json_array({listed})"


def list_of(rows: str) -> str:
    """Return a subquery for the JSON list of the `json` of rows."""
    return f"('[' || coalesce({joined(rows)}, '') || ']')"


class SharedIds(NamedTuple):
    """Ids that several subqueries use: the table of their column `id`, and where it comes from."""

    table: str
    source: str


def shared_ids(rows: str) -> SharedIds:
    """Let subqueries share the ids of a common table; `source` belongs behind their SELECT.

    SQLite would compute the table anew for each of them.
    """
    if connection.vendor == "postgresql":
        return SharedIds(rows, "")
    listed = f"SELECT json_group_array(s.id) AS ids FROM {rows} s"
    return SharedIds(
        f"(SELECT value AS id FROM json_each({rows}_ids.ids))", f" FROM ({listed}) {rows}_ids"
    )


def together(*lists: str) -> str:
    """Return an expression for a JSON list of JSON values."""
    listed = " || ',' || ".join(lists)
    return f"('[' || {listed} || ']')"


def json_list(name: str, rows: str, *, counted: bool = True) -> str:
    """Return a subquery for `{"<name>": […], "count": n}`; `rows` selects JSON as `json`."""
    listed = _JOIN[connection.vendor].format(text="t.json", between="','")
    count = """ || ',"count":' || count(*)""" if counted else ""
    made = f"""'{{"{name}":[' || coalesce({listed}, '') || ']'{count} || '}}'"""
    return f"(SELECT {made} FROM ({rows}) t)"


def joined(rows: str) -> str:
    """Return a subquery for the `json` of rows with commas between them; null without rows."""
    return (
        f"(SELECT {_JOIN[connection.vendor].format(text='t.json', between=_COMMA)} FROM ({rows}) t)"
    )


def pieces(key: str, parent: str, json: str, rows: str) -> str:
    """Return a subquery for all rows as pieces, see `split`; `rows` begins with FROM."""
    vendor = connection.vendor
    between, end = (_CHAR[vendor].format(code=ord(code)) for code in (PART_END, PIECE_END))
    text = f"{key} || {between} || coalesce({parent} || '', '') || {between} || {json}"
    listed = _JOIN[vendor].format(text="t.piece", between=end)
    return f"(SELECT {listed} FROM (SELECT {text} AS piece {rows}) t)"


def headed(head: str, pieces: str) -> str:
    """Return an expression for pieces, perhaps none, behind a text; see `split_headed`."""
    end = _CHAR[connection.vendor].format(code=ord(PIECE_END))
    return f"({head} || {end} || coalesce({pieces}, ''))"


def split_headed(found: bytes) -> tuple[str, list[Piece]]:
    """Return the text in front of the pieces, and the pieces."""
    head, _, rest = found.partition(PIECE_END.encode())
    return head.decode(), split(rest)


def split(found: bytes) -> list[Piece]:
    """Return the pieces of a response."""
    rows = [piece.split(PART_END, 2) for piece in found.decode().split(PIECE_END)] if found else []
    return [Piece(key, parent or None, text) for key, parent, text in rows]
