"""Check the credentials in a request's headers before its body is read.

Valid are the root token, the token of an active node, a valid operator token, and the session of an
active user. The rows are read each time, so a revoked token is rejected from the next request on.
Django decides what the caller may do.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import NamedTuple

from django.conf import settings
from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY, load_backend
from django.contrib.auth.models import AbstractBaseUser
from django.core.exceptions import ValidationError
from django.http.cookie import parse_cookie
from django.utils.crypto import constant_time_compare

from reef_site.edge.request_bodies import MAX_BODY, BodyLimit, Scope, TryLater, declared
from registry.batching import Batcher
from registry.bearer_tokens import owners_of, parse_credentials
from vmtree import operator_tokens

# Bodies that are read without credentials: sign-in forms, and routes whose tokens only web knows.
MAX_OPEN_BODY = 64 << 10
OPEN_ROUTES = re.compile(r"/signin/?|/admin/login/?|/bootloader/(?:join|report)/?")


class Shown(NamedTuple):
    """Credentials of a request: the hash of a token, a session id, or both."""

    digest: str | None
    session: str


class Credentials:
    """Batched look-up of credentials in a thread of its own."""

    def __init__(self) -> None:
        self._group: Batcher[Shown, bool] = Batcher("reef-credentials", look_up)

    async def body_limit(self, scope: Scope) -> BodyLimit:
        """Return how many bytes this request may send, by its credentials; 0 for none.

        Raises TryLater if the database does not answer, unless the body needs no credentials.
        """
        open_limit = MAX_OPEN_BODY if OPEN_ROUTES.fullmatch(scope["path"]) else 0
        is_valid = await self._are_valid(scope["headers"])
        if is_valid is None and not 0 < declared(scope) <= open_limit:
            raise TryLater(503, "the database does not answer; try again soon")
        return BodyLimit(MAX_BODY) if is_valid else BodyLimit(open_limit, is_anonymous=True)

    async def _are_valid(self, headers: Sequence[tuple[bytes, bytes]]) -> bool | None:
        """Return whether the credentials are valid; None if the database does not answer."""
        authorization = next((value for key, value in headers if key == b"authorization"), b"")
        plausible, digest = parse_credentials(authorization) if authorization else (False, None)
        if plausible and digest is None:
            return True
        shown = Shown(digest if plausible else None, _session_id(headers))
        if shown.digest is None and not shown.session:
            return False
        return await self._group.ask(shown)

    async def close(self) -> None:
        """End the thread."""
        await self._group.close()


def look_up(shown: Sequence[Shown]) -> list[bool]:
    """Return for each of these whether it is valid."""
    digests = {each.digest for each in shown if each.digest is not None}
    holders = set(owners_of(digests))
    if unknown := digests - holders:
        holders |= operator_tokens.good_ones(unknown).keys()
    sessions = {each.session for each in shown if each.session and each.digest not in holders}
    active = {key for key in sessions if user_of_session(key) is not None}
    return [each.digest in holders or each.session in active for each in shown]


def user_of_session(key: str) -> AbstractBaseUser | None:
    """Return the active user of an unexpired session, without writing anything; else None."""
    session: Mapping[str, str] = import_module(settings.SESSION_ENGINE).SessionStore(key)
    backend = session.get(BACKEND_SESSION_KEY, "")
    if backend not in settings.AUTHENTICATION_BACKENDS:
        return None
    try:
        user: AbstractBaseUser | None = load_backend(backend).get_user(session[SESSION_KEY])
    except (KeyError, ValueError, ValidationError):
        return None
    if user is None or not getattr(user, "is_active", False):
        return None
    shown = session.get(HASH_SESSION_KEY, "")
    is_valid = [user.get_session_auth_hash(), *user.get_session_auth_fallback_hash()]
    return user if any(constant_time_compare(shown, each) for each in is_valid) else None


def _session_id(headers: Sequence[tuple[bytes, bytes]]) -> str:
    cookies = "; ".join(value.decode("latin-1") for key, value in headers if key == b"cookie")
    return parse_cookie(cookies).get(settings.SESSION_COOKIE_NAME, "") if cookies else ""
