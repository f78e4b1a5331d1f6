"""Commands and files on a machine by SSH: plainly, or inside TLS where the provider wants that.

`ssh_shell` has the implementation. It is imported where it is used, since it takes much memory.
"""

from __future__ import annotations

from bootloader.providers.base import Login
from bootloader.shell_protocol import Shell


def connect(login: Login, timeout: float = 15.0) -> Shell:
    """Log in within `timeout` seconds. Raises ShellAway and ShellRefused.

    Without a known host key the one that is shown is accepted and given to `login.keep`.
    """
    from bootloader import ssh_shell

    return ssh_shell.connect(login, timeout)


def check_key(text: str) -> None:
    """Whether this is a private key that we can use (OpenSSH or PEM, no passphrase).

    Raises ShellRefused, without quoting it.
    """
    from bootloader import ssh_shell

    ssh_shell.read_key(text)
