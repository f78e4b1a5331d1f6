"""Addresses of clients, and how many connections each may have.

The address is that of the connection. X-Forwarded-For counts only if a trusted proxy sent it.
"""

from __future__ import annotations

import functools
import ipaddress
import re
from collections import Counter
from collections.abc import Iterable, Sequence

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

# Some proxies add the port: `192.0.2.1:5000`, `[2001:db8::1]:5000`.
_WITH_PORT = re.compile(r"\[(.+)\](?::\d+)?|([\d.]+):\d+")


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


class TrustedProxies:
    """The proxies whose X-Forwarded-For counts."""

    def __init__(self, networks: Iterable[Network] = ()) -> None:
        self._networks = tuple(networks)

    def __contains__(self, host: str) -> bool:
        """Return whether a proxy at this address is trusted."""
        if not self._networks:
            return False
        address = _parsed(host)
        return address is not None and any(address in network for network in self._networks)

    def client(self, peer: str, forwarded: Sequence[bytes]) -> str:
        """Return the last address before the trusted proxies; of no trusted peer, the peer.

        `forwarded` are the values of X-Forwarded-For, in the order of the headers. Whatever stands
        before the last untrusted address was sent by that client, so it says nothing.
        """
        if peer not in self:
            return peer
        client = peer
        for hop in reversed(b",".join(forwarded).decode("latin-1").split(",")):
            address = _parsed(hop.strip())
            if address is None:
                return client
            client = str(address)
            if client not in self:
                return client
        return client


def _parsed(host: str) -> Address | None:
    """Return the address in this text, without a port or zone; None if there is none."""
    if match := _WITH_PORT.fullmatch(host):
        host = match[1] or match[2]
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


class ConnectionLimits:
    """Counts the open connections of each client."""

    def __init__(self, per_address: int, loopback: int) -> None:
        self._per_address, self._loopback = per_address, loopback
        self._open: Counter[str] = Counter()

    def take(self, key: str, *, is_proxy: bool = False) -> bool:
        """Count one more connection; False if the client has too many already."""
        is_shared = is_proxy or is_loopback(key)
        limit = self._loopback if is_shared else self._per_address
        if self._open[key] >= limit:
            return False
        self._open[key] += 1
        return True

    def release(self, key: str) -> None:
        """Count one less."""
        self._open[key] -= 1
        if self._open[key] <= 0:
            del self._open[key]
