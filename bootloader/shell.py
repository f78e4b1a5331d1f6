"""Commands and files on a machine by SSH: directly, or inside TLS where the provider requires it.

The implementation is `ssh_shell`, imported only when needed because of its memory use.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

from bootloader.providers.base import Login


@dataclass(frozen=True)
class CommandResult:
    """The result of a command. `exit_status` is -1 if a signal ended it."""

    exit_status: int
    output: bytes
    errors: bytes


class Shell(Protocol):
    """A connection to one machine. Not thread-safe; close it, or use `with`.

    `host_key` is the machine's key, as one line without a name.
    """

    host_key: str

    def __enter__(self) -> Self:
        """Return self."""
        ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the connection."""
        ...

    def close(self) -> None:
        """Close the connection. Processes that do not hold its output open keep running."""
        ...

    def run(
        self,
        command: str,
        *,
        stdin: bytes = b"",
        timeout: float,
        on_output: Callable[[bytes], None] | None = None,
    ) -> CommandResult:
        """Run a command in the user's shell; `on_output` receives both streams as they arrive.

        At most 16 MiB of each stream are kept. Raise ShellUnavailable when the connection is lost
        (the command may have run, or still runs), CommandTimeout after `timeout` seconds.
        """
        ...

    def script(self, script: str, *, data: bytes = b"", timeout: float) -> CommandResult:
        """Run an sh script in the user's home, whatever the user's login shell is or prints.

        `data` is its stdin. Raise ShellRefused, with the output received instead, if the account
        cannot run scripts, ShellUnavailable if the script was interrupted, and the errors of `run`.
        """
        ...

    def put(self, path: str, data: bytes, mode: int, timeout: float = 120.0) -> None:
        """Write a file atomically, creating its folder. A relative path starts at the user's home.

        Raise ShellUnavailable, and ShellError if it cannot be written.
        """
        ...


def connect(login: Login, timeout: float = 15.0) -> Shell:
    """Log in within `timeout` seconds. Raise ShellUnavailable, ShellRefused.

    Without a known host key the first one shown is accepted and passed to `login.keep`.
    """
    from bootloader import ssh_shell

    return ssh_shell.connect(login, timeout)


def check_key(text: str) -> None:
    """Check that this is a usable private key (OpenSSH or PEM, no passphrase).

    Raise ShellRefused, without quoting the key.
    """
    from bootloader import ssh_shell

    ssh_shell.read_key(text)
