"""Client addresses, trusted proxies, and limits on connections.

A client's address is its connection's. X-Forwarded-For counts only if a trusted proxy sent it.
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
    """Return the part of an address that a client cannot vary: the IPv4 address or the IPv6 /64."""
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
    """Return whether this is our own machine, where a proxy may serve many clients."""
    try:
        return ipaddress.ip_network(key, strict=False).is_loopback
    except ValueError:
        return True


class TrustedProxies:
    """Networks of the proxies whose X-Forwarded-For counts."""

    def __init__(self, networks: Iterable[Network] = ()) -> None:
        self._networks = tuple(networks)

    def __contains__(self, host: str) -> bool:
        """Return whether a proxy at this address is trusted."""
        if not self._networks:
            return False
        address = _parse(host)
        return address is not None and any(address in network for network in self._networks)

    def client(self, peer: str, forwarded: Sequence[bytes]) -> str:
        """Return the last address before the trusted proxies; the peer if it is not trusted.

        `forwarded` are the values of X-Forwarded-For, in the order of the headers. Entries before
        the last untrusted address were sent by that client, so they prove nothing.
        """
        if peer not in self:
            return peer
        client = peer
        for hop in reversed(b",".join(forwarded).decode("latin-1").split(",")):
            address = _parse(hop.strip())
            if address is None:
                return client
            client = str(address)
            if client not in self:
                return client
        return client


def _parse(host: str) -> Address | None:
    """Return the address in this text, without a port or zone; None if there is none."""
    if match := _WITH_PORT.fullmatch(host):
        host = match[1] or match[2]
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


class ConnectionLimits:
    """Counter of the open connections of each client."""

    def __init__(self, per_address: int, loopback: int) -> None:
        self._per_address, self._loopback = per_address, loopback
        self._open: Counter[str] = Counter()

    def take(self, key: str, *, is_proxy: bool = False) -> bool:
        """Count one more connection; return False if the client has too many already."""
        is_shared = is_proxy or is_loopback(key)
        limit = self._loopback if is_shared else self._per_address
        if self._open[key] >= limit:
            return False
        self._open[key] += 1
        return True

    def release(self, key: str) -> None:
        """Count one connection less."""
        self._open[key] -= 1
        if self._open[key] <= 0:
            del self._open[key]
