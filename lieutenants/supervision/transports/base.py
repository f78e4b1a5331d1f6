"""Interface between reef and the place where a keeper runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

from lieutenants.agents.base import Command, Outgoing

Handle = dict[str, Any]
# Id of the query that a keeper sends to its agent at first: its reply makes the agent ready.
READY = "~ready"


@dataclass(frozen=True)
class Launch:
    """Launch parameters of a keeper and its agent; the keeper's `start` reads them as JSON."""

    run: str
    dir: str
    argv: Sequence[str]
    env: Mapping[str, str] = field(repr=False)
    cwd: str
    lock: str
    heal: Sequence[str]
    tag: str
    hello: Sequence[Command]
    # Time from SIGTERM to SIGKILL.
    stop_seconds: float = 3.0
    # Lines of the agent's stderr with one of these texts become entries of the transcript.
    warnings: Sequence[str] = ()
    # Rules of `lieutenants.supervision.keeper.sandbox.rules`.
    isolation: Mapping[str, Any] = field(default_factory=lambda: {"mode": "none"})

    def spec(self) -> dict[str, Any]:
        """Return a JSON object. It contains secrets: never log it, never write it to disk."""
        return asdict(self)


class Transport(Protocol):
    """Access to keepers, wherever they run. All methods raise TransportError.

    `directory` is the run's own folder there, `handle` the reply of `start`: keeper_pid,
    keeper_started, agent_pid, agent_started (start times in clock ticks since boot), boot_id (of
    the kernel that counts them; None for keepers of older versions), isolation (its mode) and
    own_user (the user id that only this agent has, else 0).
    """

    # Keepers are on another machine: it may be out of reach while they go on. `read`, `alive`,
    # `unreachable`, `shorten`, `clean` and `can_read` still answer at once.
    is_remote: bool

    def start(self, launch: Launch) -> Handle:
        """Start keeper and agent, or find them running."""
        ...

    def find(self, directory: str) -> Handle | None:
        """Return the handle of the keeper that was started in this folder, if there was one."""
        ...

    def send(self, directory: str, commands: Sequence[Outgoing]) -> None:
        """Pass commands on; a keeper passes each id on once."""
        ...

    def can_read(self, directory: str, begin: int, end: int) -> bool:
        """Return whether the journal between these offsets can be read now."""
        ...

    def read(self, directory: str, offset: int, limit: int) -> bytes:
        """Return at most `limit` bytes of the journal from `offset`; empty if there are none."""
        ...

    def shorten(self, directory: str, offset: int) -> None:
        """Release the disk space of the journal before `offset`; offsets do not change."""
        ...

    def skip_gap(self, directory: str, offset: int) -> int:
        """Return where the journal continues after the released part at `offset`."""
        ...

    def alive(self, handle: Handle, directory: str = "") -> bool:
        """Return whether that very keeper still runs; more reliable with its run's folder."""
        ...

    def unreachable(self, handle: Handle, directory: str) -> str:
        """Return why a live keeper cannot be reached, without waking it; empty if it can."""
        ...

    def silent_seconds(self) -> float | None:
        """Return for how long the machine was silent; None without a connection to one."""
        ...

    def withdraw(self, directory: str) -> Handle | None:
        """Prevent later keepers from coming up in this folder; return an earlier one's handle.

        Raises TransportError while one is coming up.
        """
        ...

    def stop(self, directory: str, handle: Handle, final_command: Outgoing | None) -> None:
        """Begin a graceful stop: `final_command` first, then TERM, then KILL. Does not wait."""
        ...

    def end(self, directory: str, handle: Handle, *, keeper: bool) -> None:
        """End the agent without its keeper's help; with `keeper` end the keeper too."""
        ...

    def release(self, directory: str) -> None:
        """Stop reading a journal, which another follower may go on with."""
        ...

    def clean(self, directory: str) -> None:
        """Remove the journal of an ended run."""
        ...
