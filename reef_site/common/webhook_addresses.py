"""Addresses that webhooks may not reach: reef's own machine, and the link it is on.

Behind them are services that trust whoever reaches them, such as databases and the metadata of a
cloud. `REEF_LOCAL_WEBHOOKS` allows them.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import httpx
from django.conf import settings

REFUSAL = "is on reef's own machine or link; REEF_LOCAL_WEBHOOKS allows such addresses"
# Metadata services of clouds at addresses that are not link-local.
_METADATA = frozenset(map(ipaddress.ip_address, ("fd00:ec2::254", "100.100.100.200")))


class AddressRefused(Exception):
    """A webhook leads to an address that it may not reach."""


@dataclass
class AddressCheck:
    """Checks one call. It is an extension `trace` of httpx, which calls it while connecting."""

    host: str
    allow_loopback: bool = False
    # With a proxy of the environment, connections lead to the proxy.
    _is_direct: bool = False

    async def __call__(self, event: str, info: Mapping[str, Any]) -> None:
        """Raise AddressRefused before anything is sent over a connection to a refused address.

        A name may have had another address when `check_host` asked for it.
        """
        if event.endswith("connect_tcp.started"):
            self._is_direct = info["host"] == self.host
        elif event.endswith("connect_tcp.complete") and self._is_direct:
            stream = info["return_value"]
            address = str(stream.get_extra_info("server_addr")[0])
            if is_refused(address, allow_loopback=self.allow_loopback):
                await stream.aclose()
                raise AddressRefused(f"{address} {REFUSAL}")

    async def check_host(self) -> None:
        """Raise AddressRefused if an address of the host is refused.

        So no connection is tried, which would tell whether something listens there.
        """
        try:
            found = await asyncio.get_running_loop().getaddrinfo(self.host, None)
        except (OSError, UnicodeError):
            # The call fails in the same way, or a proxy knows the name.
            return
        for *_, where in found:
            if is_refused(str(where[0]), allow_loopback=self.allow_loopback):
                raise AddressRefused(f"{where[0]} {REFUSAL}")


def is_refused(address: str, *, allow_loopback: bool = False) -> bool:
    """Return whether webhooks may not reach this IP address."""
    if settings.LOCAL_WEBHOOKS:
        return False
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        ip = ip.ipv4_mapped or ip
    # Connections to 0.0.0.0 reach the loopback.
    if ip.is_loopback or ip.is_unspecified:
        return not allow_loopback
    return ip.is_link_local or ip.is_multicast or ip in _METADATA


def problem_of(url: str) -> str:
    """Return why a webhook may not have this URL, as far as it shows; empty if it may.

    Names are resolved at each call.
    """
    host = httpx.URL(url).host.rstrip(".").lower()
    try:
        refused = is_refused("127.0.0.1" if host == "localhost" else host)
    except ValueError:
        return ""
    return REFUSAL if refused else ""
