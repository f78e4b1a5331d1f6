"""The interface of a connection to a machine, without the SSH library that implements it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from types import TracebackType
from typing import Protocol, Self


@dataclass(frozen=True)
class CommandResult:
    """The result of a command. `exit_status` is -1 if a signal ended it."""

    exit_status: int
    output: bytes
    errors: bytes


class EndReason(Enum):
    """Reasons for the end of a command."""

    ENDED = 1
    TIMED_OUT = 2
    CANCELLED = 3


@dataclass(frozen=True)
class CommandEnd:
    """The end of a command; the status is None if the machine did not report one."""

    reason: EndReason
    exit_status: int | None


class TextSink(Protocol):
    """Takes the output of a command as it comes."""

    def add(self, text: str) -> None:
        """Take some output."""
        ...

    def finish(self) -> None:
        """Note that there is no more."""
        ...


class Stream(Protocol):
    """A running script, read and written without blocking."""

    @property
    def ended(self) -> bool:
        """Return whether no further output will come."""
        ...

    @property
    def has_more(self) -> bool:
        """Return whether output is available that the last `read` has left."""
        ...

    def listen(self, bell: Callable[[], object]) -> None:
        """Call `bell`, from another thread, when there is something to read, or an end."""
        ...

    def read(self) -> bytes:
        """Return the available output of the script."""
        ...

    def write(self, data: bytes) -> int:
        """Return how much was written without blocking. Raise ShellUnavailable at the end."""
        ...

    def errors(self) -> str:
        """Return the end of the script's stderr as one line."""
        ...

    def close(self) -> None:
        """Close both streams."""
        ...


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

    def open_script(self, script: str, *, timeout: float) -> Stream:
        """Start an sh script whose stdin and stdout stay open. Raise the errors of `script`."""
        ...

    def run_text(
        self,
        text: str,
        *,
        limit: float,
        output: TextSink,
        errors: TextSink,
        is_cancelled: Callable[[], bool],
    ) -> CommandEnd:
        """Run a command that a person wrote with sh, and end it after `limit` seconds.

        `is_cancelled` is asked twice a second. Raise ShellRefused, ShellUnavailable.
        """
        ...

    def put(self, path: str, data: bytes, mode: int, timeout: float = 120.0) -> None:
        """Write a file atomically, creating its folder. A relative path starts at the user's home.

        Raise ShellUnavailable, and ShellError if it cannot be written.
        """
        ...
