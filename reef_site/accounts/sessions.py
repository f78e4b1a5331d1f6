"""Sessions in the database, with hashed ids and an absolute lifetime.

`SESSION_ENGINE` names this module. Use extends a session by `SESSION_COOKIE_AGE`, up to
`SESSION_ABSOLUTE_AGE` after the sign-in.
"""

from __future__ import annotations

import functools
import hashlib
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

from django.conf import settings
from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY, get_user_model
from django.contrib.auth.models import User
from django.contrib.sessions.backends.base import UpdateError
from django.contrib.sessions.backends.db import SessionStore as DatabaseStore
from django.contrib.sessions.models import Session
from django.utils import timezone
from django.utils.crypto import constant_time_compare, salted_hmac

from reef_site.common.batches import batched

SIGNED_IN_AT = "signed_in_at"
USED_AT = "used_at"
_SALT = "django.contrib.auth.models.AbstractBaseUser.get_session_auth_hash"


def row_key(session_id: str) -> str:
    """Return the key of the row that belongs to a session id; the id cannot be derived from it."""
    return "s" + hashlib.sha256(f"session:{session_id}".encode()).hexdigest()[:39]


class SessionStore(DatabaseStore):
    """Django's store, keyed by the hash of the id that the cookie carries."""

    @classmethod
    def get_model_class(cls) -> type[Session]:
        """Return the model of the rows, as Django's own store does."""
        return Session

    def exists(self, session_key: str) -> bool:
        """Return whether a row belongs to this session id."""
        return super().exists(row_key(session_key))

    def create_model_instance(self, data: dict[str, Any]) -> Session:
        """Return the row to save; its key is the hash."""
        session: Session = super().create_model_instance(data)  # type: ignore[assignment]
        session.session_key = row_key(session.session_key)
        return session

    def delete(self, session_key: str | None = None) -> None:
        """Delete the row of this session id, by default of the current one."""
        session_id = session_key or self.session_key
        if session_id is not None:
            super().delete(row_key(session_id))

    def get_session_cookie_age(self) -> int:
        """Return for how many seconds the session stays valid without being used."""
        sliding: int = settings.SESSION_COOKIE_AGE
        started = self.get(SIGNED_IN_AT)
        if not isinstance(started, int | float):
            return sliding
        left = int(started + settings.SESSION_ABSOLUTE_AGE - time.time())
        return max(0, min(sliding, left))

    def _get_session_from_db(self) -> Session | None:
        rows = Session.objects.filter(expire_date__gt=timezone.now())
        found = rows.filter(session_key=row_key(self.session_key or "")).first()
        if found is None:
            self._session_key = None
        return found


@dataclass(frozen=True)
class SignedIn:
    """Account of a valid session."""

    user_id: int
    is_superuser: bool
    is_staff: bool


def signed_in(row_keys: Collection[str]) -> dict[str, SignedIn]:
    """Map the currently valid sessions to their accounts.

    Left out are sessions that ended or expired, and those whose account was deleted, deactivated,
    or given another password since.
    """
    return dict(_signed_in(row_keys))


def _signed_in(row_keys: Collection[str]) -> Iterator[tuple[str, SignedIn]]:
    for keys in batched(row_keys):
        rows = Session.objects.filter(
            session_key__in=keys, expire_date__gt=timezone.now()
        ).values_list("session_key", "session_data")
        claims = {key: _claims(data) for key, data in rows}
        users = _active_users({claim[0] for claim in claims.values() if claim})
        for key, claim in claims.items():
            user = users.get(claim[0]) if claim else None
            if claim and user and _is_hash_of(user.password, claim[1]):
                yield key, SignedIn(user.pk, user.is_superuser, user.is_staff)


def _active_users(ids: set[int]) -> dict[int, User]:
    fields = ("password", "is_superuser", "is_staff")
    found = get_user_model().objects.filter(pk__in=ids, is_active=True).only(*fields)
    return {user.pk: user for user in found}


# Decoding checks a signature, and open streams read the same rows several times a second.
@functools.lru_cache(maxsize=4096)
def _claims(session_data: str) -> tuple[int, str] | None:
    """Return the account's id and the password hash that the session was made with."""
    data = SessionStore().decode(session_data)
    if not data.get(BACKEND_SESSION_KEY):
        return None
    try:
        return int(data[SESSION_KEY]), str(data[HASH_SESSION_KEY])
    except (KeyError, ValueError):
        return None


def _is_hash_of(password: str, session_hash: str) -> bool:
    return any(constant_time_compare(session_hash, each) for each in _session_hashes(password))


@functools.lru_cache(maxsize=1024)
def _session_hashes(password: str) -> tuple[str, ...]:
    """Return the values of `User.get_session_auth_hash` and its fallbacks for a stored password."""
    secrets = (settings.SECRET_KEY, *settings.SECRET_KEY_FALLBACKS)
    return tuple(
        salted_hmac(_SALT, password, secret=secret, algorithm="sha256").hexdigest()
        for secret in secrets
    )


__all__ = ["SessionStore", "SignedIn", "UpdateError", "row_key", "signed_in"]
