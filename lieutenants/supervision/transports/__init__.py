"""Transports to keepers, by name. A new transport is a new file and one entry here."""

from __future__ import annotations

from lieutenants.supervision.transports.base import Transport
from lieutenants.supervision.transports.local import LocalTransport

_TRANSPORTS: dict[str, Transport] = {"local": LocalTransport()}


def get_transport(name: str) -> Transport:
    """Return the transport of this name. Raises KeyError."""
    return _TRANSPORTS[name]
