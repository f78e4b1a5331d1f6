"""The interface between reef and VM providers. A new kind of provider is a new module here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Protocol


class Ability(StrEnum):
    """Optional operations of a provider. List, state and login are always available."""

    CREATE = "create"
    RESTORE = "restore"
    BRANCH = "branch"
    COMMIT = "commit"
    PAUSE = "pause"
    DELETE = "delete"


class MachineState(StrEnum):
    """A machine's state as reported by its provider. UNKNOWN: a state that reef does not know."""

    BOOTING = "booting"
    RUNNING = "running"
    PAUSED = "paused"
    STOPPED = "stopped"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Spec:
    """The specification of a new machine. Sizes in MiB; None leaves the choice to the provider.

    `commit` restores a saved machine; otherwise `image` is booted (None: the provider's default).
    """

    name: str
    commit: str | None = None
    image: str | None = None
    kernel: str | None = None
    vcpus: int | None = None
    memory_mib: int | None = None
    disk_mib: int | None = None
    region: str | None = None
    size: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    # Never place it on the machine that reef itself runs on.
    elsewhere: bool = False


@dataclass(frozen=True)
class Machine:
    """A machine as reported by its provider. `name` and `labels` are empty if it stores none."""

    id: str
    state: MachineState
    created_at: datetime | None = None
    name: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    commit: str | None = None
    parent_id: str | None = None
    # False if it is known to belong to another account.
    mine: bool = True


@dataclass(frozen=True)
class Login:
    """SSH connection parameters. With `tls_name`, SSH runs inside TLS with that SNI.

    `host_key` is one line as in known_hosts without the name ("ssh-ed25519 AAAA…"). None accepts
    the first key shown and calls `keep` with it. `trust` is the path of CA certificates for TLS.
    With `jump`, the connection goes through that machine. `keepalive_seconds` is the pause between
    messages that keep a quiet connection open: None for the usual one, 0 for no such messages.
    """

    host: str
    port: int
    user: str
    private_key: str = field(repr=False)
    tls_name: str | None = None
    host_key: str | None = None
    trust: str | None = None
    keep: Callable[[str], None] | None = field(default=None, repr=False, compare=False)
    jump: Login | None = None
    keepalive_seconds: int | None = None


@dataclass(frozen=True)
class KeyVerdict:
    """The provider's opinion of our API key."""

    good: bool
    text: str


class Provider(Protocol):
    """A VM provider. All methods raise subclasses of `bootloader.exceptions.ProviderError`.

    `create` and `branch` are never retried internally: after `OutcomeUnknown` the caller uses
    `find_created` before it calls again. Deleting a missing machine is not an error.
    """

    slug: str
    abilities: frozenset[Ability]

    def create(self, spec: Spec) -> Machine:
        """Create from an image, or restore a commit. The machine may still be booting."""
        ...

    def find_created(self, spec: Spec, since: datetime, known: frozenset[str]) -> list[Machine]:
        """Return machines, except known ones, that a `create` with this spec may have made since
        then.
        """
        ...

    def branch(self, machine_id: str, count: int = 1) -> list[Machine]:
        """Create running copies of a machine."""
        ...

    def commit(self, machine_id: str, name: str) -> str:
        """Save a machine and return the id of the commit."""
        ...

    def pause(self, machine_id: str) -> None:
        """Freeze the machine, including its memory."""
        ...

    def resume(self, machine_id: str) -> None:
        """Resume a paused machine."""
        ...

    def delete(self, machine_id: str) -> None:
        """Delete the machine permanently."""
        ...

    def state(self, machine_id: str) -> Machine:
        """Return the machine's current state. Raise NoSuchMachine."""
        ...

    def list(self) -> list[Machine]:
        """Return all machines visible to our key."""
        ...

    def login(self, machine_id: str, *, fresh: bool = False) -> Login:
        """Return SSH parameters. `fresh` bypasses cached keys."""
        ...

    def address(self, machine_id: str) -> str:
        """Return the host name by which the fleet reaches the machine, as stored in the
        registry.
        """
        ...

    def check(self) -> KeyVerdict:
        """Check our key. Raise ProviderUnavailable if the provider cannot be reached."""
        ...
