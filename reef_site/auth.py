"""Who is at the door: agents by bearer token, operators by session, sign-in links."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

from django.conf import settings
from django.contrib.auth import get_user_model
from django.contrib.auth.models import User
from django.contrib.sessions.models import Session
from django.utils import timezone
from rest_framework.authentication import BaseAuthentication
from rest_framework.exceptions import AuthenticationFailed
from rest_framework.permissions import SAFE_METHODS, BasePermission
from rest_framework.request import Request

from vmtree import authority, tokens
from vmtree.models import Node

if TYPE_CHECKING:
    # At run time this would be a circle: its classes are made with the settings' defaults.
    from rest_framework.views import APIView

NO_HEADER = "Unauthorized — missing Authorization header"
BAD_TOKEN = "Unauthorized — invalid token"  # noqa: S105
OPERATOR = "admin"


@dataclass(frozen=True)
class Caller:
    """An agent that showed a good token."""

    name: str
    # The node of the tree that the token belongs to; None is the root token.
    node: Node | None = None
    is_authenticated: bool = True
    is_active: bool = True

    def __str__(self) -> str:
        return self.name


class BearerAuthentication(BaseAuthentication):
    """`Authorization: Bearer <token>`; the scheme in any case, one or more spaces."""

    def authenticate(self, request: Request) -> tuple[Caller, str] | None:
        """The caller; None without the header, so that an operator's session may do."""
        header = request.META.get("HTTP_AUTHORIZATION")
        if header is None:
            return None
        scheme, _, token = header.partition(" ")
        caller = caller_of(token.strip()) if scheme.lower() == "bearer" else None
        if caller is None:
            raise AuthenticationFailed(BAD_TOKEN)
        return caller, "root" if caller.node is None else "node"

    def authenticate_header(self, request: Request) -> str:
        """What a 401 asks for."""
        return "Bearer"


class NodesAreAsked(BasePermission):
    """Nodes change things only where the view asks the rule (`asks_authority = True`).

    So a door that forgets to ask `vmtree.authority` is shut to them, not open. Accounts that are no
    operators change nothing anywhere.
    """

    def has_permission(self, request: Request, view: APIView) -> bool:
        """True for reading, for views that ask, and for everybody who is no node."""
        asks = getattr(view, "asks_authority", False)
        if request.method not in SAFE_METHODS and (
            not asks or authority.is_read_only_account(request.user)
        ):
            authority.check(request.user, "command", None)
        return True


def caller_of(token: str) -> Caller | None:
    """Whose token this is; None if it opens nothing."""
    if is_root_token(token):
        return Caller("root token")
    node = tokens.node_of(token)
    return Caller(f"node {node.vm_id}", node) if node else None


def root_token() -> str:
    """The token that may do all that the API offers."""
    return settings.ROOT_TOKEN


def is_root_token(token: str) -> bool:
    """Compared in constant time."""
    return hmac.compare_digest(token.encode("utf-8", "replace"), settings.ROOT_TOKEN.encode())


def actor_of(user: object) -> str:
    """How moves and messages name whoever asked for them."""
    return str(user)[:200]


def page_url(url: str) -> str:
    """Return the address at which browsers open pages: loopback addresses get reef's own name.

    So the cookies do not go to other web servers of this machine. The name stands for 127.0.0.1
    and ::1, and for no other address of the loopback.
    """
    parts = urlsplit(url)
    if not settings.OWN_HOST or parts.hostname not in ("127.0.0.1", "localhost", "::1"):
        return url
    port = f":{parts.port}" if parts.port else ""
    return urlunsplit(parts._replace(netloc=f"{settings.OWN_HOST}{port}"))


def make_signin_link(base_url: str) -> str:
    """A link that signs in the operator, once, within 15 minutes.

    It is kept as a row of the sessions' table: its key is the hash of the link's secret, and
    using the link removes the row, so only one of two users of it gets in.
    """
    make_operator()
    secret = secrets.token_urlsafe(24)
    Session.objects.create(
        session_key=_link_key(secret),
        session_data="",
        expire_date=timezone.now() + timedelta(minutes=settings.SIGNIN_MINUTES),
    )
    return f"{base_url.rstrip('/')}/signin/{secret}"


def use_signin_link(secret: str) -> User | None:
    """The operator, if this link is good; it is not any more after this."""
    good = Session.objects.filter(
        session_key=_link_key(secret), session_data="", expire_date__gt=timezone.now()
    )
    deleted, _ = good.delete()
    return make_operator() if deleted else None


def make_operator() -> User:
    """The operator's account; it has no password until it gets one in the admin."""
    users = get_user_model()
    operator, made = users.objects.get_or_create(
        username=OPERATOR, defaults={"is_staff": True, "is_superuser": True}
    )
    if made:
        operator.set_unusable_password()
        operator.save(update_fields=["password"])
    return operator


def _link_key(secret: str) -> str:
    return "l" + hashlib.sha256(secret.encode()).hexdigest()[:39]
