"""Connections to VMs that are coming up, kept for a while between one look and the next.

A connection belongs to one taker at a time; each process has its own.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator

from bootloader import providers
from bootloader.models import Machine
from bootloader.reach import reach
from bootloader.shell_protocol import Shell

CONNECT_SECONDS = 10.0
# Nobody took it for so long: it is hung up.
IDLE_SECONDS = 30.0

_kept: dict[int, tuple[Shell, float]] = {}
_lock = threading.Lock()


@contextlib.contextmanager
def to(machine: Machine) -> Iterator[Shell]:
    """A connection to this machine; kept for the next one unless something goes wrong.

    Raises ShellAway, ShellRefused, ProviderError.
    """
    line = _take(machine.pk) or _dial(machine)
    try:
        yield line
    except BaseException:
        line.close()
        raise
    with _lock:
        old = _kept.pop(machine.pk, None)
        _kept[machine.pk] = (line, time.monotonic())
    if old:
        old[0].close()


def hang_up(machine: Machine) -> None:
    """Nothing more is to be said to it."""
    if line := _take(machine.pk):
        line.close()


def _take(key: int) -> Shell | None:
    now = time.monotonic()
    with _lock:
        old = [each for each, (_, since) in _kept.items() if now - since > IDLE_SECONDS]
        stale = [_kept.pop(each)[0] for each in old]
        found = _kept.pop(key, None)
    for line in stale:
        line.close()
    return found[0] if found else None


def _dial(machine: Machine) -> Shell:
    provider = providers.get(machine.provider)
    line = reach(provider, machine.machine_id, CONNECT_SECONDS)
    Machine.objects.filter(pk=machine.pk).update(host_key=line.host_key[:2000])
    return line
