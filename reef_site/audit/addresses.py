"""Client address of a request."""

from __future__ import annotations

import ipaddress

from django.http import HttpRequest


def client_address(request: HttpRequest) -> str:
    """Return the address of the client as the edge saw it; empty if there is none.

    The edge replaces X-Forwarded-For by one address: that of the connection, or the one reported
    by a trusted proxy.
    """
    given = request.META.get("HTTP_X_FORWARDED_FOR") or request.META.get("REMOTE_ADDR") or ""
    try:
        return str(ipaddress.ip_address(given.rpartition(",")[2].strip()))
    except ValueError:
        return ""
