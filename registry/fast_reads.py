"""Reads that the edge answers itself, with the bytes and headers of Django's responses.

Requests that wait are answered together: one statement for each route and for the tokens. Equal
ones are looked up once, and on SQLite reads of the tree only once for each state of the tree.
"""

from __future__ import annotations

import hashlib
import logging
import sqlite3
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import NamedTuple

import orjson
from django.utils.http import parse_etags

from reef_site.common import clock
from reef_site.common.asgi import JSONResponse
from reef_site.common.batches import batched
from reef_site.common.compression import MIN_COMPRESSED, accepts_gzip, compress
from reef_site.common.fast_routes import FastRoute, key_for
from reef_site.common.queries import LoopConnection, fetch_json
from registry.bearer_tokens import TokenOwner, unauthorized
from registry.remembered import Memory, Remembered, Wanted, find_owners

logger = logging.getLogger(__name__)

VARY = (b"vary", b"Accept-Encoding")
# Different responses that one statement makes: some have a megabyte.
MAX_KEYS_BY_CALLER = 16
# A longer body is not compressed on the event loop: it would hold up all others.
MAX_PACKED_ON_LOOP = 64 << 10
# In place of a response: the event loop must leave this request to a thread.
LATER = JSONResponse(0, b"")
# Conditions that only Django looks at.
OTHER_CONDITIONS = frozenset({b"if-match", b"if-unmodified-since", b"if-modified-since"})


# Responses without those conditions; None is a case for Django.
Responses = dict[Wanted, JSONResponse | None]


class ReadRequest(NamedTuple):
    """One read: the hash of its token (None for the root token), the route, and the key."""

    digest: str | None
    route: FastRoute
    key: str
    # The header If-None-Match, and whether the caller accepts compressed responses.
    none_match: bytes = b""
    takes_gzip: bool = False

    @property
    def wanted(self) -> Wanted:
        """The response that this request needs, in the form that it accepts."""
        return self.route, self.key, self.takes_gzip


def parse_read(
    digest: str | None, route: FastRoute, key: str, headers: Mapping[bytes, bytes]
) -> ReadRequest | None:
    """Return the request; None to pass it on."""
    if not OTHER_CONDITIONS.isdisjoint(headers):
        return None
    encodings = headers.get(b"accept-encoding")
    takes_gzip = encodings is not None and accepts_gzip(encodings.decode("latin-1"))
    return ReadRequest(digest, route, key, headers.get(b"if-none-match", b""), takes_gzip)


class Reader:
    """Answers batches of reads, in one thread; with a `link` on the event loop.

    There it returns `LATER` for what would take long.
    """

    def __init__(
        self, remembered: Remembered | None = None, link: LoopConnection | None = None
    ) -> None:
        self._remembered = remembered or Remembered()
        self._link = link

    def read(self, requests: Sequence[ReadRequest]) -> list[JSONResponse | None]:
        """Answer many requests at one moment."""
        memory = self._remembered.now(self._link)
        owners = find_owners((each.digest for each in requests), memory, self._link)
        valid = [_of_caller(each, owners) for each in requests]
        fresh = self._look_up([each for each in valid if each], memory)
        return [self._encoded(fresh, memory, each) if each else unauthorized() for each in valid]

    def _look_up(self, requests: Sequence[ReadRequest], memory: Memory) -> Responses:
        """Return all plain responses; those not remembered by one statement for each route."""
        fresh: Responses = {}
        keys: dict[FastRoute, dict[str, None]] = {}
        for each in requests:
            known = memory.responses.get((each.route, each.key, False))
            if known:
                fresh[each.route, each.key, False] = known
            else:
                keys.setdefault(each.route, {})[each.key] = None
        at = clock.now()
        for route, wanted in keys.items():
            try:
                texts = self._fetch(route, list(wanted), at)
            except sqlite3.Error as error:
                if self._link is None:
                    raise
                logger.debug("%d reads of %s go to a thread: %s", len(wanted), route.path, error)
                fresh.update({(route, key, False): LATER for key in wanted})
                continue
            for key, found in zip(wanted, texts, strict=True):
                response = _plain(route, key, found)
                fresh[route, key, False] = response
                if response and route.of_tree and response.status == 200:
                    memory.keep((route, key, False), response)
        return fresh

    def _fetch(self, route: FastRoute, keys: list[str], at: datetime) -> list[bytes | None]:
        """Return what the route's SQL makes of each key."""
        values = route.values(at) if route.values else {}
        size = MAX_KEYS_BY_CALLER if route.by_caller else len(keys)
        return [
            text
            for some in batched(keys, size)
            for text in fetch_json(route.expression, some, values, self._link)
        ]

    def _encoded(
        self, fresh: Responses, memory: Memory, request: ReadRequest
    ) -> JSONResponse | None:
        """Return the response in the form that this request asks for; None to pass it on."""
        plain = fresh[request.route, request.key, False]
        if plain is None or plain is LATER:
            return plain
        if request.none_match and plain.status == 200:
            ((_, etag), *_) = plain.more
            if _matches(request.none_match, etag.decode()):
                return JSONResponse(304, b"", plain.more[:1])
        if not request.takes_gzip or plain.status != 200 or len(plain.body) < MIN_COMPRESSED:
            return plain
        packed = request.route, request.key, True
        made = fresh.get(packed) or memory.responses.get(packed)
        if made is None:
            if self._link and len(plain.body) > MAX_PACKED_ON_LOOP:
                return LATER
            made = fresh[packed] = _packed(plain)
        if request.route.of_tree and packed not in memory.responses:
            memory.keep(packed, made)
        return made


def _of_caller(request: ReadRequest, owners: Mapping[str, TokenOwner]) -> ReadRequest | None:
    """Return the request with the key of its caller, if that matters; None for a bad token."""
    if request.digest is None:
        return request
    owner = owners.get(request.digest)
    if owner is None or not request.route.by_caller:
        return owner and request
    return request._replace(key=key_for(request.key, owner.pk))


def _plain(route: FastRoute, key: str, found: bytes | None) -> JSONResponse | None:
    if route.finish and found is not None:
        found = route.finish(found, key)
    if found is None:
        return JSONResponse(404, orjson.dumps({"error": route.missing})) if route.missing else None
    etag = hashlib.md5(found, usedforsecurity=False).hexdigest().encode()
    vary = (VARY,) if len(found) >= MIN_COMPRESSED else ()
    return JSONResponse(200, found, ((b"etag", b'"%b"' % etag), *vary))


def _packed(plain: JSONResponse) -> JSONResponse:
    """Return the response with its body compressed."""
    (_, strong), vary = plain.more
    more = ((b"etag", b"W/" + strong), vary, (b"content-encoding", b"gzip"))
    return JSONResponse(200, compress(plain.body), more)


def _matches(header: bytes, etag: str) -> bool:
    """Return whether If-None-Match has this ETag, compared weakly as RFC 9110 says."""
    etags = parse_etags(header.decode("latin-1"))
    return etags == ["*"] or etag in {each.removeprefix("W/") for each in etags}
