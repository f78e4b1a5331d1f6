"""Connect to a provider's machine by SSH."""

from __future__ import annotations

from bootloader.exceptions import ShellRefused
from bootloader.providers.base import Provider
from bootloader.providers.ssh import protocol, shell


def connect_machine(provider: Provider, machine_id: str, timeout: float = 15.0) -> protocol.Shell:
    """Log in to the machine.

    Raise ShellUnavailable, ShellRefused and the errors of `provider.login`.

    If the machine refuses, its key may have changed: fetch the login anew and try once more.
    """
    login = provider.login(machine_id)
    try:
        return shell.connect(login, timeout)
    except ShellRefused:
        again = provider.login(machine_id, fresh=True)
        if again == login:
            raise
        return shell.connect(again, timeout)
