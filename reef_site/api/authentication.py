"""Authentication by bearer tokens, and what nodes may do without a check of their own."""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from typing import TYPE_CHECKING

from django.conf import settings
from rest_framework.authentication import BaseAuthentication
from rest_framework.exceptions import AuthenticationFailed
from rest_framework.permissions import SAFE_METHODS, BasePermission
from rest_framework.request import Request

from reef_site.audit.addresses import client_address
from vmtree import operator_tokens, permissions, tokens
from vmtree.models import Node, OperatorToken

if TYPE_CHECKING:
    # At run time this would be circular: DRF's classes read the settings' defaults.
    from rest_framework.views import APIView

NO_HEADER = "Unauthorized — missing Authorization header"
BAD_TOKEN = "Unauthorized — invalid token"  # noqa: S105


@dataclass(frozen=True)
class Caller:
    """Caller of the API with a valid token."""

    name: str
    # The tree node that the token belongs to; None for the root token and operator tokens.
    node: Node | None = None
    operator_token: OperatorToken | None = None
    is_authenticated: bool = True
    is_active: bool = True

    def __str__(self) -> str:
        return self.name


class BearerAuthentication(BaseAuthentication):
    """Authenticate by `Authorization: Bearer <token>`; any case, one or more spaces."""

    def authenticate(self, request: Request) -> tuple[Caller, str] | None:
        """Return caller and kind of token; None without the header, then a session may do."""
        header = request.META.get("HTTP_AUTHORIZATION")
        if header is None:
            return None
        scheme, _, token = header.partition(" ")
        caller = caller_of(token.strip()) if scheme.lower() == "bearer" else None
        if caller is None:
            raise AuthenticationFailed(BAD_TOKEN)
        if caller.operator_token:
            operator_tokens.note_use(caller.operator_token, client_address(request._request))
            return caller, "operator"
        return caller, "root" if caller.node is None else "node"

    def authenticate_header(self, request: Request) -> str:
        """Return the challenge of a 401."""
        return "Bearer"


class NodePermission(BasePermission):
    """Let nodes change things only where the view checks permissions (`checks_permission = True`).

    So a view that forgets to call `vmtree.permissions` is closed to them, not open. Accounts that
    are not operators, and tokens for reading, change nothing anywhere.
    """

    def has_permission(self, request: Request, view: APIView) -> bool:
        """Return True for safe methods and checking views; else raise without the rights."""
        checks = getattr(view, "checks_permission", False)
        if request.method not in SAFE_METHODS and (
            not checks or permissions.is_read_only(request.user)
        ):
            permissions.check(request.user, "command", None)
        return True


def caller_of(token: str) -> Caller | None:
    """Return the caller with this token; None if the token is invalid."""
    if is_root_token(token):
        return Caller("root token")
    if (row := operator_tokens.find(token)) is not None:
        return Caller(str(row), operator_token=row)
    node = tokens.node_of(token)
    return Caller(f"node {node.vm_id}", node) if node else None


def root_token() -> str:
    """Return the token that has every permission of the API."""
    return settings.ROOT_TOKEN


def is_root_token(token: str) -> bool:
    """Compare with the root token in constant time."""
    return hmac.compare_digest(token.encode("utf-8", "replace"), settings.ROOT_TOKEN.encode())


def actor_of(user: object) -> str:
    """Return the name by which status transitions and messages record their author."""
    return str(user)[:200]
