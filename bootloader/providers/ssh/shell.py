"""Commands and files on a machine by SSH: directly, or inside TLS where the provider requires it.

`client` has the implementation. It is imported only when needed because of its memory use.
"""

from __future__ import annotations

from bootloader.providers.base import Login
from bootloader.providers.ssh.protocol import Shell


def connect(login: Login, timeout: float = 15.0) -> Shell:
    """Log in within `timeout` seconds. Raise ShellUnavailable, ShellRefused.

    Without a known host key the first one shown is accepted and passed to `login.keep`.
    """
    from bootloader.providers.ssh import client

    return client.connect(login, timeout)


def check_key(text: str) -> None:
    """Check that this is a usable private key (OpenSSH or PEM, no passphrase).

    Raise ShellRefused, without quoting the key.
    """
    from bootloader.providers.ssh import private_keys

    private_keys.read_key(text)
