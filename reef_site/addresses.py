"""Addresses of clients, and how many connections each may have.

The address is that of the connection. What a header says of other addresses is never believed.
"""

from __future__ import annotations

import functools
import ipaddress
from collections import Counter


@functools.lru_cache(maxsize=10_000)
def client_key(host: str) -> str:
    """What one client cannot change about its address: an IPv4 address, or the /64 of an IPv6."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped:
            return str(address.ipv4_mapped)
        if not address.is_loopback:
            return str(ipaddress.ip_network((address, 64), strict=False))
    return str(address)


@functools.lru_cache(maxsize=10_000)
def is_loopback(key: str) -> bool:
    """Whether this is our own machine, where a proxy may stand in front of many clients."""
    try:
        return ipaddress.ip_network(key, strict=False).is_loopback
    except ValueError:
        return True


class ConnectionLimits:
    """Counts the open connections of each client."""

    def __init__(self, per_address: int, loopback: int) -> None:
        self._per_address, self._loopback = per_address, loopback
        self._open: Counter[str] = Counter()

    def take(self, key: str) -> bool:
        """Count one more connection; False if the client has too many already."""
        limit = self._loopback if is_loopback(key) else self._per_address
        if self._open[key] >= limit:
            return False
        self._open[key] += 1
        return True

    def release(self, key: str) -> None:
        """Count one less."""
        self._open[key] -= 1
        if self._open[key] <= 0:
            del self._open[key]
