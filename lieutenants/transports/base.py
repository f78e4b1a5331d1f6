"""The contract between reef and the place where a keeper runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

from lieutenants.rpc import Command, Outgoing

Handle = dict[str, Any]


@dataclass(frozen=True)
class Launch:
    """What a keeper needs to bring an agent up; the keeper's `start` reads it as JSON."""

    run: str
    dir: str
    argv: Sequence[str]
    env: Mapping[str, str] = field(repr=False)
    cwd: str
    lock: str
    heal: Sequence[str]
    tag: str
    hello: Sequence[Command]
    # The rules of `lieutenants.sandbox`.
    isolation: Mapping[str, Any] = field(default_factory=lambda: {"mode": "none"})

    def spec(self) -> dict[str, Any]:
        """As a JSON object. It holds secrets: never log it, never write it to disk."""
        return asdict(self)


class Transport(Protocol):
    """Verbs on a keeper, wherever it runs. All raise TransportError.

    `directory` is the run's own folder there, `handle` what `start` answered: keeper_pid,
    keeper_started, agent_pid, agent_started (start times in clock ticks since boot), boot_id (of
    the kernel that counts them; None for keepers of an older reef), isolation (its mode) and
    own_user (the user id that only this agent has, else 0).
    """

    def start(self, launch: Launch) -> Handle:
        """Bring keeper and agent up, or find them up already."""
        ...

    def find(self, directory: str) -> Handle | None:
        """The handle of the keeper that was started in this folder, if one ever was."""
        ...

    def send(self, directory: str, commands: Sequence[Outgoing]) -> None:
        """Pass commands on; a keeper passes each id on once."""
        ...

    def read(self, directory: str, offset: int, limit: int) -> bytes:
        """At most `limit` bytes of the journal from `offset`; empty when there are none."""
        ...

    def shorten(self, directory: str, offset: int) -> None:
        """Give back the room that the journal before `offset` takes; offsets stay as they are."""
        ...

    def skip_gap(self, directory: str, offset: int) -> int:
        """Return where the journal goes on after the room at `offset` that was given back."""
        ...

    def alive(self, handle: Handle, directory: str = "") -> bool:
        """Whether that very keeper still runs; surer when its run's folder is given."""
        ...

    def unreachable(self, handle: Handle, directory: str) -> str:
        """Why a living keeper cannot be reached, without waking it; empty when it can."""
        ...

    def withdraw(self, directory: str) -> Handle | None:
        """Make sure that no keeper comes up in this folder any more; its handle if one has.

        Raises TransportError while one is coming up.
        """
        ...

    def stop(self, directory: str, handle: Handle, farewell: Outgoing | None) -> None:
        """Begin an orderly end: `farewell` first, then TERM, then KILL. Does not wait."""
        ...

    def end(self, directory: str, handle: Handle, *, keeper: bool) -> None:
        """End the agent without its keeper's help, with `keeper` the keeper, too."""
        ...

    def clean(self, directory: str) -> None:
        """Remove the journal of an ended run."""
        ...
