"""From a provider's machine to a shell on it."""

from __future__ import annotations

from bootloader import shell, shell_protocol
from bootloader.exceptions import ShellRefused
from bootloader.providers.base import Provider


def reach(provider: Provider, machine_id: str, timeout: float = 15.0) -> shell_protocol.Shell:
    """Log in to it. Raises ShellAway, ShellRefused and what `provider.login` raises.

    A machine that refuses may have a new key by now: the provider is asked anew, once.
    """
    login = provider.login(machine_id)
    try:
        return shell.connect(login, timeout)
    except ShellRefused:
        again = provider.login(machine_id, fresh=True)
        if again == login:
            raise
        return shell.connect(again, timeout)
