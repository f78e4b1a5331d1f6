"""The registry's busiest routes as raw ASGI: heartbeats, one VM, discover, ancestors.

The edge tries this first. Responses equal those of the DRF views in `registry.api` and use the same
functions. Unclear cases (a session, an unknown host, a caller that may lack permission) return
None, and the edge passes the request on to Django.

Heartbeats that arrive during a commit are written together in the next transaction, by one thread
with one connection; each is answered after its commit. Tokens are looked up in the same
transaction, so a revoked token fails from the next request on.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import hmac
import logging
import re
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from enum import Enum, auto
from functools import partial
from typing import Any, NamedTuple
from urllib.parse import unquote_to_bytes

import orjson
from django.conf import settings
from django.db import transaction
from django.http.request import split_domain_port, validate_host

from reef_site.common import clock, events
from reef_site.common.asgi import JSONResponse
from reef_site.common.errors import BadInput
from registry import heartbeats as beats
from registry import json_rows, services
from registry.batching import Batcher
from registry.checkpoints import Checkpoints
from registry.heartbeats import Heartbeat, Outcome
from vmtree import aliases, ids, tokens
from vmtree.models import Node
from vmtree.queries.nodes import owners_of_tokens

logger = logging.getLogger(__name__)

UPTIME_SECONDS = 5.0
BAD_TOKEN = "Unauthorized — invalid token"  # noqa: S105
_ALIAS = f'"{ids.LOCAL}'.encode()
_ID = rb"/registry/vms/([^/]+)"
ROUTES: tuple[tuple[str, str, re.Pattern[bytes]], ...] = (
    ("POST", "beat", re.compile(_ID + rb"/heartbeat/?")),
    ("POST", "bulk", re.compile(rb"/registry/heartbeats/?")),
    ("GET", "vm", re.compile(_ID + rb"/?")),
    ("GET", "discover", re.compile(rb"/registry/discover/([^/]+)/?")),
    ("GET", "ancestors", re.compile(_ID + rb"/ancestors/?")),
)


class WriteRequest(NamedTuple):
    """Heartbeats of one request, and the hash of its token (None for the root token)."""

    digest: str | None
    beats: Sequence[Heartbeat]
    single: bool


class ReadRequest(NamedTuple):
    """One read request: the route, its id or role, and the hash of its token."""

    digest: str | None
    what: str
    key: str


def _route_of(method: str, path: bytes) -> tuple[str, str] | None:
    """Return the fast route's name and the id or role in the path; None for all other paths."""
    if not path.startswith(b"/registry/"):
        return None
    for wanted, name, pattern in ROUTES:
        if method == wanted and (found := pattern.fullmatch(path)):
            return _named(name, found[1]) if found.groups() else (name, "")
    return None


def _named(name: str, raw: bytes) -> tuple[str, str] | None:
    with contextlib.suppress(UnicodeDecodeError):
        key = (unquote_to_bytes(raw) if b"%" in raw else raw).decode()
        # Aliases are resolved by the Django views.
        if "/" not in key and key.isprintable() and not aliases.is_alias(key):
            return name, key
    return None


class FastPath:
    """The fast path; lives as long as the edge. `answer` is called on its event loop."""

    def __init__(self) -> None:
        self._notifier = Notifier()
        self._writer: Batcher[WriteRequest | None, JSONResponse | None]
        self._writer = Batcher("reef-beats", partial(write, self._notifier.publish))
        self._reader: Batcher[ReadRequest, JSONResponse | None] = Batcher("reef-looks", read)
        self._checkpoints = Checkpoints()
        self._uptime_task = asyncio.get_running_loop().create_task(self._record_uptime())

    @staticmethod
    def route(scope: Mapping[str, Any]) -> tuple[str, str] | None:
        """Return the fast route's name and the id or role in the path; None for all others.

        None of these routes takes a query string; Django rejects one with an explanation.
        """
        if scope.get("query_string"):
            return None
        return _route_of(scope["method"], scope.get("raw_path") or b"")

    @staticmethod
    def rejection(headers: Mapping[bytes, bytes]) -> JSONResponse | None:
        """Return a 401 for an invalid token; None to pass the request on."""
        return unauthorized() if b"authorization" in headers and _is_allowed_host(headers) else None

    async def close(self) -> None:
        """Let waiting writes commit, and end the threads."""
        self._uptime_task.cancel()
        self._checkpoints.close()
        for group in (self._writer, self._reader):
            await group.close()
        self._notifier.close()

    async def answer(
        self, route: tuple[str, str], headers: Mapping[bytes, bytes], body: bytes
    ) -> JSONResponse | None:
        """Return the response; None to pass the request on."""
        request = parse(route, headers, body)
        if isinstance(request, ReadRequest):
            return await self._reader.ask(request)
        if isinstance(request, WriteRequest):
            return await self._writer.ask(request)
        return request

    def begin(
        self,
        route: tuple[str, str],
        headers: Mapping[bytes, bytes],
        reply: Callable[[JSONResponse | None], None],
    ) -> bool:
        """Like `answer` for a request without a body, with a callback; False to pass it on."""
        request = parse(route, headers, b"")
        if isinstance(request, ReadRequest):
            self._reader.put(request, reply)
        elif isinstance(request, WriteRequest):
            self._writer.put(request, reply)
        else:
            return False
        return True

    async def _record_uptime(self) -> None:
        """Record every few seconds that this edge can receive heartbeats."""
        while True:
            try:
                await self._writer.ask(None)
            except Exception:
                logger.exception("a sign of life cannot be written")
            await asyncio.sleep(UPTIME_SECONDS)


def parse(
    route: tuple[str, str], headers: Mapping[bytes, bytes], body: bytes
) -> ReadRequest | WriteRequest | JSONResponse | None:
    """Parse a request.

    Returns a 401 for a token that cannot be valid, and None to pass the request on.
    """
    name, key = route
    if b"authorization" not in headers or not _is_allowed_host(headers):
        return None
    good, digest = parse_credentials(headers[b"authorization"])
    if not good:
        return unauthorized()
    if name in READ_ROUTES:
        return ReadRequest(digest, name, key)
    try:
        if name == "bulk" and _ALIAS in body:
            return None
        heartbeats = (
            [beats.parse_one(key, body)] if name == "beat" else beats.parse_many(orjson.loads(body))
        )
    except (BadInput, orjson.JSONDecodeError):
        # Django reports the error, but only if the token is valid.
        return None
    return WriteRequest(digest, heartbeats, name == "beat")


# -- authentication ----------------------------------------------------------------------------


def parse_credentials(header: bytes) -> tuple[bool, str | None]:
    """Return whether the token may be valid, and the hash to look up (None for the root token)."""
    scheme, _, token = header.decode("latin-1").partition(" ")
    token = token.strip()
    if scheme.lower() != "bearer":
        return False, None
    if hmac.compare_digest(token.encode("utf-8", "replace"), _root_token()):
        return True, None
    return token.startswith(tokens.PREFIX), tokens.digest_of(token)


@functools.cache
def _root_token() -> bytes:
    """Cached: the setting does not change, and reading it is slow."""
    return settings.ROOT_TOKEN.encode()


def _is_allowed_host(headers: Mapping[bytes, bytes]) -> bool:
    host = headers.get(b"host", b"").decode("latin-1")
    if host not in _allowed_hosts:
        domain, _ = split_domain_port(host)
        if not domain or not validate_host(domain, settings.ALLOWED_HOSTS):
            return False
        if len(_allowed_hosts) < 100:
            _allowed_hosts.add(host)
    return True


_allowed_hosts: set[str] = set()


class TokenOwner(NamedTuple):
    """The node that a token belongs to."""

    pk: int
    vm_id: str


def owners_of(digests: set[str]) -> dict[str, TokenOwner]:
    """Return the active nodes of these token hashes with one query; runs inside a batch."""
    if not digests:
        return {}
    rows = owners_of_tokens(digests)
    return {digest: TokenOwner(pk, vm_id) for digest, pk, vm_id in rows}


# -- batches -----------------------------------------------------------------------------------


class Decision(Enum):
    """The decision whether a request may be answered on the fast path."""

    GOOD = auto()
    REFUSED = auto()
    UNSURE = auto()


def write(
    publish: Callable[[set[str]], None], requests: Sequence[WriteRequest | None]
) -> list[JSONResponse | None]:
    """Record the heartbeats of many requests in one transaction; return responses in their order.

    None in `requests` records that this edge is up.
    """
    now, writes = clock.now(), [each for each in requests if each is not None]
    with transaction.atomic():
        if len(writes) < len(requests):
            services.record_edge_uptime(now)
        owners = owners_of({each.digest for each in writes if each.digest is not None})
        decisions = [_decide(each, owners) for each in requests]
        accepted: list[Heartbeat] = []
        for each, decision in zip(requests, decisions, strict=True):
            if each and decision is Decision.GOOD:
                accepted.extend(each.beats)
        interval = beats.fleet.interval_ms()
        outcome = beats.record(accepted, now, interval) if accepted else Outcome()
    if outcome.changed:
        publish(outcome.changed)
    batch = WrittenBatch(outcome, now, interval)
    return [
        batch.answer(each, decision) for each, decision in zip(requests, decisions, strict=True)
    ]


def _decide(request: WriteRequest | None, owners: Mapping[str, TokenOwner]) -> Decision:
    if request is None or request.digest is None:
        return Decision.GOOD
    owner = owners.get(request.digest)
    if owner is None:
        return Decision.REFUSED
    if request.single and request.beats[0].vm_id == owner.vm_id:
        return Decision.GOOD
    node = Node(pk=owner.pk, vm_id=owner.vm_id)
    allowed = services.may_send_heartbeats(node, [each.vm_id for each in request.beats])
    return Decision.GOOD if allowed else Decision.UNSURE


@dataclass(frozen=True, slots=True)
class WrittenBatch:
    """The result of one transaction of heartbeats."""

    outcome: Outcome
    now: datetime
    interval: int

    def answer(self, request: WriteRequest | None, decision: Decision) -> JSONResponse | None:
        """Return the response to this request; None to pass it on."""
        if request is None or decision is Decision.UNSURE:
            return None
        if decision is Decision.REFUSED:
            return unauthorized()
        if not request.single:
            response = beats.response_for_many(request.beats, self.outcome, self.now, self.interval)
            return JSONResponse(200, orjson.dumps(response))
        vm_id = request.beats[0].vm_id
        if vm_id not in self.outcome.seen:
            return _not_found()
        return JSONResponse(
            200, orjson.dumps(beats.response_for_one(vm_id, self.outcome, self.interval))
        )


def read(requests: Sequence[ReadRequest]) -> list[JSONResponse | None]:
    """Answer many read requests at one moment; equal requests are looked up once."""
    owners = owners_of({each.digest for each in requests if each.digest is not None})
    valid = [each for each in requests if each.digest is None or each.digest in owners]
    responses = {
        (what, key): response for what in READ_ROUTES for key, response in _read_route(valid, what)
    }
    return [
        responses[each.what, each.key]
        if each.digest is None or each.digest in owners
        else unauthorized()
        for each in requests
    ]


READ_ROUTES = ("vm", "discover", "ancestors")


def _read_route(requests: Sequence[ReadRequest], what: str) -> Iterable[tuple[str, JSONResponse]]:
    """Yield responses to all requests of one route, by id or role."""
    keys = {each.key for each in requests if each.what == what}
    reader = json_rows.RegistryReader() if keys else None
    if reader is None:
        return
    if what == "vm":
        found = reader.vms(keys)
        for key in keys:
            yield key, JSONResponse(200, orjson.dumps(found[key])) if key in found else _not_found()
    elif what == "ancestors":
        chains = reader.ancestors(keys)
        for key in keys:
            yield key, _with_count(what, chains[key]) if key in chains else _not_found()
    else:
        for key in keys:
            yield key, _with_count("vms", reader.discover(key))


# -- responses ---------------------------------------------------------------------------------


def _with_count(name: str, found: list[Any]) -> JSONResponse:
    return JSONResponse(200, orjson.dumps({name: found, "count": len(found)}))


def _not_found() -> JSONResponse:
    return JSONResponse(404, orjson.dumps({"error": services.VM_NOT_FOUND}))


def unauthorized() -> JSONResponse:
    """Return a 401 for an invalid token."""
    return JSONResponse(401, orjson.dumps({"error": BAD_TOKEN}))


class Notifier:
    """Publishes events in a thread of its own, so that a hanging Redis delays no heartbeat."""

    def __init__(self) -> None:
        self._ids: set[str] = set()
        self._lock = threading.Lock()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="reef-tells")

    def publish(self, vm_ids: set[str]) -> None:
        """Publish these ids soon, together with those that arrive until then."""
        with self._lock:
            waiting = bool(self._ids)
            self._ids |= vm_ids
        if not waiting:
            self._thread.submit(self._send)

    def close(self) -> None:
        """Stop publishing."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _send(self) -> None:
        with self._lock:
            ids, self._ids = self._ids, set()
        try:
            events.publish_nodes(sorted(ids))
        except Exception:
            # The executor would drop the exception.
            logger.exception("watchers cannot be told of %d VMs", len(ids))
