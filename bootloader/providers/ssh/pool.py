"""A pool of SSH connections to VMs that are being provisioned.

A connection is used by one caller at a time; each process has its own pool.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator

from bootloader import providers
from bootloader.models import Machine
from bootloader.providers.ssh.connect import connect_machine
from bootloader.providers.ssh.protocol import Shell

CONNECT_SECONDS = 10.0
# Unused connections are closed after this time.
IDLE_SECONDS = 30.0

_pool: dict[int, tuple[Shell, float]] = {}
_lock = threading.Lock()


@contextlib.contextmanager
def connection(machine: Machine) -> Iterator[Shell]:
    """Connect to a machine, or take its pooled connection.

    It is pooled again unless an error occurs.

    Raise ShellUnavailable, ShellRefused, ProviderError.
    """
    ssh_connection = _take(machine.pk) or _connect(machine)
    try:
        yield ssh_connection
    except BaseException:
        ssh_connection.close()
        raise
    with _lock:
        old = _pool.pop(machine.pk, None)
        _pool[machine.pk] = (ssh_connection, time.monotonic())
    if old:
        old[0].close()


def disconnect(machine: Machine) -> None:
    """Close the pooled connection to a machine."""
    if ssh_connection := _take(machine.pk):
        ssh_connection.close()


def _take(key: int) -> Shell | None:
    now = time.monotonic()
    with _lock:
        old = [each for each, (_, since) in _pool.items() if now - since > IDLE_SECONDS]
        expired = [_pool.pop(each)[0] for each in old]
        found = _pool.pop(key, None)
    for ssh_connection in expired:
        ssh_connection.close()
    return found[0] if found else None


def _connect(machine: Machine) -> Shell:
    provider = providers.get(machine.provider)
    ssh_connection = connect_machine(provider, machine.machine_id, CONNECT_SECONDS)
    Machine.objects.filter(pk=machine.pk).update(host_key=ssh_connection.host_key[:2000])
    return ssh_connection
