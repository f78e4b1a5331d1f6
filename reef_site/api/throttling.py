"""Limits on the requests of one token, with `Retry-After`.

Sessions are not limited, and neither are heartbeats: the edge answers most of them without Django.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.conf import settings
from rest_framework.permissions import BasePermission
from rest_framework.request import Request
from rest_framework.throttling import BaseThrottle

from reef_site.accounts import request_counts
from vmtree import permissions

if TYPE_CHECKING:
    # At run time this would be circular: DRF's classes read the settings' defaults.
    from rest_framework.views import APIView

# The attribute of a request that has been counted.
COUNTED = "reef_is_counted"


class TokenThrottle(BaseThrottle):
    """Refuse requests of a token beyond its limit a minute; the root token has its own limit."""

    def __init__(self) -> None:
        self._wait: int = 0

    def allow_request(self, request: Request, view: object) -> bool:
        """Count the request, once; return False if the token has to wait."""
        if hasattr(request, COUNTED):
            return True
        setattr(request, COUNTED, True)
        key, limit = bucket_of(request.user)
        if key and limit:
            self._wait = request_counts.seconds_to_wait(key, limit)
        return not self._wait

    def wait(self) -> float | None:
        """Return for how many seconds the token has to wait."""
        return self._wait or None


class WithinLimit(BasePermission):
    """Check the view's throttles before the permissions behind it.

    DRF checks them last, so requests that a permission refuses would not be counted.
    """

    def has_permission(self, request: Request, view: APIView) -> bool:
        """Return True. Raises Throttled."""
        view.check_throttles(request)
        return True


def bucket_of(caller: object) -> tuple[str, int]:
    """Return the key of the caller's token and its limit; an empty key for other callers."""
    if (node := permissions.node_of(caller)) is not None:
        return f"node {node.pk}", settings.RATE_LIMIT
    if (token := permissions.operator_token_of(caller)) is not None:
        return f"operator token {token.pk}", settings.RATE_LIMIT
    is_root = hasattr(caller, "operator_token")
    return ("root token", settings.ROOT_RATE_LIMIT) if is_root else ("", 0)
