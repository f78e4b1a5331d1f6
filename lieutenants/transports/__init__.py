"""How keepers are reached, by the name of the way. A new way is a new file and a line here."""

from __future__ import annotations

from lieutenants.transports.base import Transport
from lieutenants.transports.local import LocalTransport

_TRANSPORTS: dict[str, Transport] = {"local": LocalTransport()}


def get_transport(name: str) -> Transport:
    """The transport of this name; a KeyError for an unknown one is a fault of ours."""
    return _TRANSPORTS[name]
