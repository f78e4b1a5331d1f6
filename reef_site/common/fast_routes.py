"""Routes of the API that the edge answers without Django.

An app declares a route with the SQL that makes its response (see `json_sql`), and registers it in
`fast_routes`. The view of the same path answers all requests that the pattern does not match, and
those of callers whose rights need more than a look at their token; both respond with equal bytes.
All routes only need the right to read registry and tree, which every node token has; what needs
another right is `by_caller`, and its SQL looks at the caller.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple
from urllib.parse import unquote

import orjson
from django.db import connection

from reef_site.common import clock
from reef_site.common.errors import BadInput
from reef_site.common.hooks import Hook
from reef_site.common.queries import to_driver_time

# An id or name in a path; what must be decoded first is left to Django.
KEY = r"([^/?]+)"
# The only parameter of a query, if its value is plain.
PLAIN = r"([A-Za-z0-9_.:-]+)"
_is_plain = re.compile(PLAIN).fullmatch
_is_number = re.compile(r"[0-9]{1,18}").fullmatch
_CALLER = "[null"

# Returns the value of a query's parameter; None to leave the request to Django.
QueryValue = Callable[[str], str | int | None]


def plain(text: str) -> str | None:
    """Return a text that needs no decoding."""
    return text if _is_plain(text) else None


def flag(text: str) -> int | None:
    """Return 1 for a true value."""
    return 1 if text in ("true", "1") else None


def moment(text: str) -> str | None:
    """Return a time in the form that the database compares."""
    with suppress(BadInput):
        decoded = unquote(text)
        # A blank stands for a plus sign.
        return str(to_driver_time(clock.parse_timestamp(decoded, ""))) if plain(decoded) else None
    return None


def number(least: int = 0, most: int = 10**9) -> QueryValue:
    """Return a function for whole numbers in these limits."""

    def parse(text: str) -> int | None:
        value = int(text) if _is_number(text) else -1
        return value if least <= value <= most else None

    return parse


@dataclass(frozen=True, eq=False)
class FastRoute:
    """One route: GET `path`, which may have a query, and groups, the parts of its key.

    A key of one part is that text. Otherwise it is a JSON list: the caller (null for the root
    token, else the key of its node) if the response depends on it, the parts of the path, and the
    values of `query` (null if absent); see `json_sql.part`.

    `sql` returns an expression for the database in use. It makes the response's JSON for the key
    `q.value`, and is null if there is no such thing: a 404, or without `missing` a case for Django.
    Parameters (see `json_sql.parameter`) are those of `values` at one moment. If the SQL cannot
    make the whole response, `finish` completes it. A `large` response does not hold up small ones.
    A route that reads `long_texts` is never read on the event loop: SQLite cannot break off a look
    into a text.
    """

    path: str
    sql: Callable[[], str]
    missing: str = ""
    finish: Callable[[bytes, str], bytes | None] | None = None
    large: bool = False
    long_texts: bool = False
    # Whether the response changes with nothing but nodes and their traits.
    of_tree: bool = False
    # The parameters that a query may have, each once.
    query: Mapping[str, QueryValue] = field(default_factory=dict)
    values: Callable[[datetime], Mapping[str, Any]] | None = None
    # Whether callers may get different responses.
    by_caller: bool = False
    _built: dict[str, str] = field(default_factory=dict)

    @property
    def expression(self) -> str:
        """Return the expression for the database in use."""
        if connection.vendor not in self._built:
            self._built[connection.vendor] = self.sql()
        return self._built[connection.vendor]

    def key_of(self, parts: Sequence[str], query: str) -> str | None:
        """Return the key of a request, not yet that of a caller; None to leave it to Django."""
        values = self._query_values(query)
        if values is None:
            return None
        if not self.by_caller and not self.query and len(parts) < 2:
            return parts[0] if parts else ""
        caller = [None] if self.by_caller else []
        return orjson.dumps([*caller, *parts, *values]).decode()

    def _query_values(self, query: str) -> list[str | int | None] | None:
        given: dict[str, str | int | None] = {}
        for each in query.split("&") if query else []:
            name, _, text = each.partition("=")
            if name not in self.query or name in given:
                return None
            given[name] = self.query[name](text)
            if given[name] is None:
                return None
        return [given.get(name) for name in self.query]


def key_for(key: str, caller: int) -> str:
    """Return the key of a route `by_caller` for the node with this key."""
    return f"[{caller}{key.removeprefix(_CALLER)}"


fast_routes: Hook[FastRoute] = Hook("edge.fast_routes", "Routes that the edge answers itself.")


class Found(NamedTuple):
    """The route of a request, the encoded parts of its path, and its query."""

    route: FastRoute
    parts: Sequence[bytes]
    query: str


class Table:
    """All registered routes as one pattern."""

    def __init__(self) -> None:
        self._routes = list(fast_routes)
        self._groups = [re.compile(route.path).groups for route in self._routes]
        patterns = [
            f"(?P<r{number}>{route.path}{r'(?:[?](.*))?' if route.query else ''})"
            for number, route in enumerate(self._routes)
        ]
        self._match = re.compile("|".join(patterns).encode()).fullmatch
        beginnings = (_literal_beginning(route.path) for route in self._routes)
        # One of these is in front of all paths.
        self.prefixes = tuple(sorted({each.encode() for each in beginnings}))

    def find(self, target: bytes) -> Found | None:
        """Return the route of a path with its query; None without one."""
        found = self._match(target)
        if found is None:
            return None
        number = int((found.lastgroup or "r0")[1:])
        route, first = self._routes[number], found.re.groupindex[f"r{number}"] + 1
        parts = [found[first + place] for place in range(self._groups[number])]
        query = found[first + len(parts)] if route.query else None
        return Found(route, parts, (query or b"").decode("latin-1"))


def _literal_beginning(path: str) -> str:
    """Return what a path begins with, as far as it is no regular expression."""
    found = re.match(r"[a-z/-]*", path)
    return found[0].rstrip("/") if found else ""
