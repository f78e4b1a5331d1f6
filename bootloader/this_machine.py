"""Whether an address leads to the machine that reef itself runs on."""

from __future__ import annotations

import socket


def is_this_machine(address: str) -> bool:
    """Whether one of the addresses of this host name belongs to this machine.

    A name that cannot be resolved counts as this machine: nobody knows where it leads.
    """
    try:
        found = socket.getaddrinfo(address, None, type=socket.SOCK_DGRAM)
    except (OSError, UnicodeError):
        return True
    return any(_is_own(family, place) for family, _, _, _, place in found)


def _is_own(family: int, place: tuple[object, ...]) -> bool:
    """Only an address of one of our interfaces can be bound."""
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        try:
            sock.bind((place[0], 0, *place[2:]))
        except OSError:
            return False
    return True
