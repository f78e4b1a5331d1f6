"""Routes of writes that the edge answers itself, many requests in one transaction.

An app declares a route and registers it in `write_routes`. Its `parse` takes bodies with plain
values only, and its `write` plain cases only, with the rows and responses that the service of the
same route makes. All others are passed on to Django: odd values, refusals, errors, and whatever
depends on another request of the batch.
"""

from __future__ import annotations

import contextlib
import re
from collections import Counter
from collections.abc import Callable, Collection, Hashable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

import orjson
from django.db import transaction

from reef_site.common import clock
from reef_site.common.asgi import JSONResponse
from reef_site.common.errors import BadInput
from reef_site.common.hooks import Hook
from registry import plain_bodies
from registry.bearer_tokens import TokenOwner, unauthorized
from registry.remembered import Remembered, find_owners
from vmtree import permissions
from vmtree.models import Node

ROOT = "root token"


class EdgeChange(NamedTuple):
    """A change that the edge made for a caller, as the audit log records it."""

    by: str
    is_root: bool
    address: str
    method: str
    route: str
    target: str
    status: int


record_changes: Hook[Callable[[Sequence[EdgeChange]], None]] = Hook(
    "edge.record_changes", "Record the changes that the edge made, in their transaction."
)


def record_for_audit(changes: Sequence[EdgeChange]) -> None:
    """Record these changes in the audit log."""
    for record in record_changes:
        record(changes)


class Call(NamedTuple):
    """A request of a route: its parsed command, and its caller (None for the root token)."""

    command: Any
    owner: TokenOwner | None
    address: str

    @property
    def by(self) -> str:
        """The caller's name, as Django records it."""
        return f"node {self.owner.vm_id}" if self.owner else ROOT

    def may(self, action: permissions.Action, target: Node | str) -> bool:
        """Return whether the caller certainly may do this."""
        if self.owner is None:
            return True
        return permissions.allows(Node(pk=self.owner.pk, vm_id=self.owner.vm_id), action, target)


@dataclass
class Written:
    """Result of a batch of one route: the response to each call, and the ids of changed VMs.

    None in place of a response passes the request on.
    """

    responses: list[JSONResponse | None]
    changed: set[str] = field(default_factory=set)


@dataclass(frozen=True, eq=False)
class WriteRoute:
    """A method and a path, whose only group, if it has one, is the key.

    `parse` makes a command of the key and the body, a JSON object; None or BadInput passes the
    request on. `write` runs inside a transaction, at this time.
    """

    method: str
    path: str
    parse: Callable[[str, dict[str, Any]], Any | None]
    write: Callable[[Sequence[Call], datetime], Written]
    # Whether callers may have tokens of other kinds, which only Django knows.
    has_other_tokens: bool = False


write_routes: Hook[WriteRoute] = Hook(
    "edge.write_routes", "Routes of writes that the edge answers itself."
)


class PlainWrite(NamedTuple):
    """A request of a route with plain values; the hash of its token is None for the root token."""

    route: WriteRoute
    digest: str | None
    command: Any
    address: str = ""


def parse(
    route: WriteRoute, key: str, digest: str | None, body: bytes, address: str
) -> PlainWrite | None:
    """Parse a request; None to pass it on."""
    if not plain_bodies.is_clear(body):
        return None
    # Django reports the error.
    with contextlib.suppress(BadInput, orjson.JSONDecodeError):
        data = orjson.loads(body)
        command = route.parse(key, data) if isinstance(data, dict) else None
        return None if command is None else PlainWrite(route, digest, command, address)
    return None


def write(
    route: WriteRoute, requests: Sequence[PlainWrite], remembered: Remembered
) -> tuple[list[JSONResponse | None], set[str]]:
    """Write requests of one route in one transaction. Return responses and the ids that changed."""
    with transaction.atomic():
        owners = find_owners((each.digest for each in requests), remembered.now())
        valid = [each for each in requests if not each.digest or each.digest in owners]
        calls = [
            Call(each.command, owners[each.digest] if each.digest else None, each.address)
            for each in valid
        ]
        written = route.write(calls, clock.now())
    responses = dict(zip(map(id, valid), written.responses, strict=True))
    refusal = None if route.has_other_tokens else unauthorized()
    return [responses.get(id(each), refusal) for each in requests], written.changed


def alone(keys: Sequence[Hashable]) -> Collection[Hashable]:
    """Return the keys that only one request of a batch is about; others depend on each other."""
    return {key for key, count in Counter(keys).items() if count == 1}


class Table:
    """All registered routes by their methods."""

    def __init__(self) -> None:
        self._routes = [
            (each.method, re.compile(each.path.encode()), each) for each in write_routes
        ]
        paths = (re.match(r"[a-z/-]*", each.path) for each in write_routes)
        # One of these is in front of all paths.
        self.prefixes = tuple({found[0].rstrip("/").encode() for found in paths if found})

    def find(self, method: str, path: bytes) -> tuple[WriteRoute, bytes] | None:
        """Return the route of a path and its key, still encoded; None without one."""
        for known, pattern, route in self._routes:
            if known == method and (found := pattern.fullmatch(path)):
                return route, found[1] if pattern.groups else b""
        return None
