"""Detect addresses of the machine that reef itself runs on."""

from __future__ import annotations

import socket


def is_this_machine(address: str) -> bool:
    """Return whether one of the addresses of this host name belongs to this machine.

    Return True for a name that cannot be resolved, since its target is unknown.
    """
    try:
        found = socket.getaddrinfo(address, None, type=socket.SOCK_DGRAM)
    except (OSError, UnicodeError):
        return True
    return any(_is_own(family, place) for family, _, _, _, place in found)


def _is_own(family: int, place: tuple[object, ...]) -> bool:
    """Return whether the address can be bound, which only works for our own interfaces."""
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        try:
            sock.bind((place[0], 0, *place[2:]))
        except OSError:
            return False
    return True
