"""Limit of the SSH connections to one address that are being opened at a time.

sshd drops connections at random from ten on that have not logged in (MaxStartups). The limit is
that of one process, and reef has a few.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from bootloader.exceptions import ShellBusy
from bootloader.providers.base import Login

AT_ONCE = 4

_lock = threading.Condition()
_opening: dict[tuple[str, int, str], int] = {}


@contextmanager
def opening(login: Login, end: float) -> Iterator[None]:
    """Hold one of the places of an address until the login there is over.

    Raise ShellBusy if there is none until `end`, a time of the monotonic clock.
    """
    # A gateway for many machines is told apart by the name that is asked for.
    address = (login.host, login.port, login.tls_name or "")
    with _lock:
        while _opening.get(address, 0) >= AT_ONCE:
            if not _lock.wait(max(0.0, end - time.monotonic())):
                raise ShellBusy(
                    f"{login.tls_name or login.host}: {AT_ONCE} other logins there are under way"
                )
        _opening[address] = _opening.get(address, 0) + 1
    try:
        yield
    finally:
        with _lock:
            _opening[address] -= 1
            if not _opening[address]:
                del _opening[address]
            _lock.notify_all()
