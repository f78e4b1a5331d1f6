"""Transports to keepers, by name. A new transport is a new file and one entry here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lieutenants.supervision.transports.base import Transport
from lieutenants.supervision.transports.local import LocalTransport
from lieutenants.supervision.transports.ssh.places import place_of
from lieutenants.supervision.transports.ssh.transport import SshTransport

if TYPE_CHECKING:
    from lieutenants.models import Lieutenant, Process

_LOCAL = LocalTransport()


def get_transport(name: str) -> Transport:
    """Return the transport of this name that needs no address. Raises KeyError."""
    return {"local": _LOCAL}[name]


def transport_of(process: Process) -> Transport:
    """Return the transport to the keeper of a process."""
    if process.transport == "ssh":
        return SshTransport(place_of(process.lieutenant), process.generation)
    return get_transport(process.transport)


def ssh_transport_of(lieutenant: Lieutenant) -> SshTransport:
    """Return the transport to the VM of a remote lieutenant."""
    return SshTransport(place_of(lieutenant))
