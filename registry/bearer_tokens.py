"""Credentials of requests to the edge, before Django sees them."""

from __future__ import annotations

import functools
import hmac
from collections.abc import Mapping
from typing import NamedTuple

import orjson
from django.conf import settings
from django.http.request import split_domain_port, validate_host

from reef_site.common.asgi import JSONResponse
from reef_site.common.queries import LoopConnection
from vmtree import operator_tokens, tokens
from vmtree.queries.nodes import owners_of_tokens

BAD_TOKEN = "Unauthorized — invalid token"  # noqa: S105
PREFIXES = (tokens.PREFIX, operator_tokens.PREFIX)
_OPERATOR_PREFIX = operator_tokens.PREFIX.encode()
# Headers that are remembered, if they are short: parsing one costs more than a look-up.
REMEMBERED, MAX_KNOWN = 20_000, 200


def parse_credentials(header: bytes) -> tuple[bool, str | None]:
    """Return whether the token may be valid, and the hash to look up (None for the root token)."""
    # Long ones would fill the memory.
    parse = _known_credentials if len(header) <= MAX_KNOWN else _known_credentials.__wrapped__
    return parse(header)


@functools.lru_cache(maxsize=REMEMBERED)
def _known_credentials(header: bytes) -> tuple[bool, str | None]:
    scheme, _, token = header.decode("latin-1").partition(" ")
    token = token.strip()
    if scheme.lower() != "bearer":
        return False, None
    if hmac.compare_digest(token.encode("utf-8", "replace"), _root_token()):
        return True, None
    return token.startswith(PREFIXES), tokens.digest_of(token)


def is_operator_token(header: bytes) -> bool:
    """Return whether a header with plausible credentials has those of an operator token."""
    return header.partition(b" ")[2].strip().startswith(_OPERATOR_PREFIX)


@functools.cache
def _root_token() -> bytes:
    """Cached: the setting does not change, and reading it is slow."""
    return settings.ROOT_TOKEN.encode()


def forget_root_token() -> None:
    """Read the root token anew, as after a change of the settings in a test."""
    _root_token.cache_clear()
    _known_credentials.cache_clear()


def is_allowed_host(headers: Mapping[bytes, bytes]) -> bool:
    """Return whether Django would accept the Host header."""
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


def owners_of(digests: set[str], link: LoopConnection | None = None) -> dict[str, TokenOwner]:
    """Return the active nodes of these token hashes with one query; runs inside a batch."""
    if not digests:
        return {}
    rows = owners_of_tokens(digests, link)
    return {digest: TokenOwner(pk, vm_id) for digest, pk, vm_id in rows}


def unauthorized() -> JSONResponse:
    """Return a 401 for an invalid token."""
    return JSONResponse(401, orjson.dumps({"error": BAD_TOKEN}))
