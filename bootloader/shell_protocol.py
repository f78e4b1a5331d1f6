"""The interface of a connection to a machine, without the SSH library that implements it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self


@dataclass(frozen=True)
class Ran:
    """How a command ended. `exit_status` is -1 if a signal ended it."""

    exit_status: int
    output: bytes
    errors: bytes


class Shell(Protocol):
    """A connection to one machine. Not for several threads at once; close it, or use `with`.

    `host_key` is the machine's, as one line without a name.
    """

    host_key: str

    def __enter__(self) -> Self:
        """Itself."""
        ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Hang up."""
        ...

    def close(self) -> None:
        """Hang up; what runs there without a hold on its output goes on."""
        ...

    def run(
        self,
        command: str,
        *,
        stdin: bytes = b"",
        timeout: float,
        on_output: Callable[[bytes], None] | None = None,
    ) -> Ran:
        """Run it in the user's shell; `on_output` gets both streams as they come.

        Raises ShellAway when the connection is lost (the command may have run, or still runs),
        CommandTimeout after `timeout` seconds. Of a stream at most 16 MiB are kept.
        """
        ...

    def script(self, script: str, *, data: bytes = b"", timeout: float) -> Ran:
        """Run a script of sh in the user's home, whatever the user's shell is and prints.

        `data` are its stdin. Raises ShellRefused, with what was printed instead, if the account
        runs no scripts, ShellAway if it was cut off, and what `run` raises.
        """
        ...

    def put(self, path: str, data: bytes, mode: int, timeout: float = 120.0) -> None:
        """Write a file whole or not at all, with its folder; a relative path starts at the home.

        Raises ShellAway, and ShellError if it cannot be written.
        """
        ...
