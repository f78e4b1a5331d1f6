"""The interface of a connection to a machine, without the SSH library that implements it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self


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
