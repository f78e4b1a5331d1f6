"""The busiest routes as raw ASGI: heartbeats, registrations, and reads of the fleet.

The edge tries this first. Responses equal those of the DRF views and, where rows are written, use
the same functions. Unclear cases (a session, an unknown host, a caller that may lack permission)
return None, and the edge passes the request on to Django.

What arrives during a commit is written together in the next transaction, by one thread with one
connection; each heartbeat is answered after its commit. Reads are batched as well. Tokens are
looked up in each batch, so a revoked token fails from the next request on.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any
from urllib.parse import unquote_to_bytes

import orjson
from django.conf import settings
from django.db import connection

from reef_site.common import fast_routes
from reef_site.common.asgi import JSONResponse
from reef_site.common.errors import BadInput
from reef_site.common.fast_routes import FastRoute
from registry import heartbeat_bodies, plain_bodies, write_routes
from registry.batching import Batcher, set_result
from registry.bearer_tokens import (
    is_allowed_host,
    is_operator_token,
    parse_credentials,
    unauthorized,
)
from registry.checkpoints import Checkpoints
from registry.fast_limits import WriteLimits
from registry.fast_reads import Reader, ReadRequest, parse_read
from registry.fast_writes import Notifier, WriteRequest, write
from registry.loop_reader import LoopReader
from registry.plain_bodies import Creating, Registering
from registry.remembered import Remembered
from registry.write_routes import PlainWrite, WriteRoute
from vmtree import aliases, ids

logger = logging.getLogger(__name__)

UPTIME_SECONDS = 5.0
_ALIAS = f'"{ids.LOCAL}'.encode()
_BEAT = re.compile(rb"/registry/vms/([^/]+)/heartbeat/?")
# Name, organ and path.
_WRITES = (
    ("bulk", "registry", re.compile(rb"/registry/heartbeats/?")),
    ("register", "registry", re.compile(rb"/registry/vms/?")),
    ("create", "vm-tree", re.compile(rb"/vm-tree/vms/?")),
)
# Paths whose routes are remembered.
MAX_ROUTES, MAX_KNOWN_PATH = 20_000, 200
_WRITE_PREFIXES = (b"/registry/vms", b"/registry/heartbeats", b"/vm-tree/vms")
Read = ReadRequest
Write = WriteRequest | Registering | Creating | PlainWrite
# What a request asks for: a route of reads or writes, or the name of one of writes; and its key.
Route = tuple[FastRoute | WriteRoute | str, str]


@functools.cache
def _table() -> fast_routes.Table:
    """Return the table of reads; all apps have registered theirs by then."""
    return fast_routes.Table()


@functools.cache
def _write_table() -> write_routes.Table:
    """Return the table of writes that apps have registered."""
    return write_routes.Table()


@functools.cache
def _prefixes() -> tuple[bytes, ...]:
    return (*_table().prefixes, *_write_table().prefixes, *_WRITE_PREFIXES)


def _route_of(method: str, path: bytes) -> Route | None:
    """Return what a request asks for; None if this is not a fast route."""
    if not path.startswith(_prefixes()):
        return None
    # Long ones would fill the memory.
    look = _known_route if len(path) <= MAX_KNOWN_PATH else _known_route.__wrapped__
    return look(method, path)


@functools.lru_cache(maxsize=MAX_ROUTES)
def _known_route(method: str, path: bytes) -> Route | None:
    if method == "GET":
        found = _table().find(path)
        return _read_of(found) if found else None
    if method == "POST":
        if beat := _BEAT.fullmatch(path):
            vm_id = _decoded(beat[1])
            return None if vm_id is None else ("beat", vm_id)
        for name, organ, other in _WRITES:
            if organ in settings.ORGANS and other.fullmatch(path):
                return name, ""
    declared = _write_table().find(method, path)
    key = _decoded(declared[1]) if declared else None
    return (declared[0], key) if declared and key is not None else None


def _read_of(found: fast_routes.Found) -> Route | None:
    parts = [part for raw in found.parts if (part := _decoded(raw)) is not None]
    key = found.route.key_of(parts, found.query) if len(parts) == len(found.parts) else None
    return None if key is None else (found.route, key)


def _decoded(raw: bytes) -> str | None:
    """Return a part of a path as text; None if it is a case for Django."""
    with contextlib.suppress(UnicodeDecodeError):
        part = (unquote_to_bytes(raw) if b"%" in raw else raw).decode()
        # Aliases are resolved by the Django views.
        if "/" not in part and part.isprintable() and not aliases.is_alias(part):
            return part
    return None


def _is_heartbeat(item: Write | None) -> bool:
    return isinstance(item, WriteRequest)


class FastPath:
    """The fast path; lives as long as the edge. `answer` is called on its event loop."""

    def __init__(self) -> None:
        self._notifier = Notifier()
        self._limits = WriteLimits()
        self._remembered = Remembered()
        self._writer: Batcher[Write | None, JSONResponse | None]
        put_down = partial(write, self._notifier.publish, remembered=self._remembered)
        self._writer = Batcher(
            "reef-beats", put_down, may_wait=_is_heartbeat, awaits_returning=True
        )
        read = Reader(self._remembered).read
        self._reader: Batcher[ReadRequest, JSONResponse | None] = Batcher("reef-looks", read)
        self._lister: Batcher[ReadRequest, JSONResponse | None] = Batcher("reef-lists", read)
        is_sqlite = connection.vendor == "sqlite"
        self._loop_reader = LoopReader(self._remembered, self._reader) if is_sqlite else None
        self._checkpoints = Checkpoints()
        self._loop = asyncio.get_running_loop()
        self._uptime_task = self._loop.create_task(self._record_uptime())

    @staticmethod
    def route(scope: Mapping[str, Any]) -> Route | None:
        """Return the fast route's name and the key in the path; None for all others.

        Of query strings, only some that agents often send are known.
        """
        path, query = scope.get("raw_path") or b"", scope.get("query_string")
        return _route_of(scope["method"], b"%b?%b" % (path, query) if query else path)

    @staticmethod
    def rejection(headers: Mapping[bytes, bytes]) -> JSONResponse | None:
        """Return a 401 for an invalid token; None to pass the request on."""
        return unauthorized() if b"authorization" in headers and is_allowed_host(headers) else None

    async def close(self) -> None:
        """Let waiting writes commit, and end the threads."""
        self._uptime_task.cancel()
        self._checkpoints.close()
        for group in (self._writer, self._reader, self._lister):
            await group.close()
        if self._loop_reader:
            self._loop_reader.close()
        self._notifier.close()

    async def answer(
        self, route: Route, headers: Mapping[bytes, bytes], body: bytes, address: str = ""
    ) -> JSONResponse | None:
        """Return the response to a client at this address; None to pass the request on."""
        request = parse(route, headers, body, address)
        if request is None or isinstance(request, JSONResponse):
            return request
        future: asyncio.Future[JSONResponse | None] = self._loop.create_future()
        return await future if self.put(request, partial(set_result, future)) else None

    def put(self, request: Read | Write, reply: Callable[[JSONResponse | None], None]) -> bool:
        """Call `reply` with the response later; return False to pass the request on."""
        if isinstance(request, ReadRequest):
            self._reader_of(request).put(request, reply)
            return True
        if isinstance(request, WriteRequest) or self._limits.allow(request.digest):
            self._writer.put(request, reply)
            return True
        return False

    def _reader_of(
        self, request: ReadRequest
    ) -> Batcher[ReadRequest, JSONResponse | None] | LoopReader:
        if self._loop_reader and (
            not (request.route.large or request.route.long_texts)
            or self._remembered.has(request.wanted)
        ):
            return self._loop_reader
        return self._lister if request.route.large else self._reader

    async def _record_uptime(self) -> None:
        """Record every few seconds that this edge can receive heartbeats."""
        while True:
            try:
                await self._writer.ask(None)
            except Exception:
                logger.exception("a sign of life cannot be written")
            await asyncio.sleep(UPTIME_SECONDS)


def parse(
    route: Route, headers: Mapping[bytes, bytes], body: bytes, address: str = ""
) -> ReadRequest | Write | JSONResponse | None:
    """Parse a request.

    Returns a 401 for a token that cannot be valid, and None to pass the request on.
    """
    name, key = route
    if b"authorization" not in headers or not is_allowed_host(headers):
        return None
    good, digest = parse_credentials(headers[b"authorization"])
    if not good:
        others = isinstance(name, WriteRoute) and name.has_other_tokens
        return None if others else unauthorized()
    if is_operator_token(headers[b"authorization"]):
        # Django checks its scope.
        return None
    if isinstance(name, FastRoute):
        return parse_read(digest, name, key, headers)
    if isinstance(name, WriteRoute):
        return write_routes.parse(name, key, digest, body, address)
    if name in ("register", "create"):
        return plain_bodies.parse(name, digest, body, address)
    try:
        if (name == "bulk" and _ALIAS in body) or heartbeat_bodies.takes_long(body):
            return None
        if name == "beat":
            return WriteRequest(digest, [heartbeat_bodies.parse_one(key, body)], single=True)
        heartbeats = heartbeat_bodies.parse_many(orjson.loads(body))
    except (BadInput, orjson.JSONDecodeError):
        # Django reports the error, but only if the token is valid.
        return None
    return WriteRequest(digest, heartbeats, single=False)
