"""The contract between reef and whoever has VMs; a new kind of provider is one more file here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Protocol


class Ability(StrEnum):
    """What a provider may be asked beside telling its machines, their state and their login."""

    CREATE = "create"
    RESTORE = "restore"
    BRANCH = "branch"
    COMMIT = "commit"
    PAUSE = "pause"
    DELETE = "delete"


class MachineState(StrEnum):
    """In the provider's eyes; `UNKNOWN` is a word of the provider's that we do not know."""

    BOOTING = "booting"
    RUNNING = "running"
    PAUSED = "paused"
    STOPPED = "stopped"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Spec:
    """What a new machine shall be. Sizes in MiB; None leaves the choice to the provider.

    `commit` restores a saved machine; else `image` is booted (None: the provider's default).
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
    # Never the machine that reef itself runs on.
    elsewhere: bool = False


@dataclass(frozen=True)
class Machine:
    """A machine as its provider tells it. `name` and `labels` are empty where it keeps none."""

    id: str
    state: MachineState
    created_at: datetime | None = None
    name: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    commit: str | None = None
    parent_id: str | None = None
    # False if the account that made it is known to be another than ours.
    mine: bool = True


@dataclass(frozen=True)
class Login:
    """How to reach a machine by SSH. With `tls_name`, SSH is spoken inside TLS with that SNI.

    `host_key` is one line as in known_hosts without the name ("ssh-ed25519 AAAA…"); None accepts
    the key that is shown first, and `keep` is called with it. `trust` is the path of CA
    certificates for TLS.
    """

    host: str
    port: int
    user: str
    private_key: str = field(repr=False)
    tls_name: str | None = None
    host_key: str | None = None
    trust: str | None = None
    keep: Callable[[str], None] | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True)
class KeyVerdict:
    """What the provider says of our key."""

    good: bool
    text: str


class Provider(Protocol):
    """All verbs raise subclasses of `bootloader.exceptions.ProviderError`, `CannotDo` among them.

    `create` and `branch` are never repeated inside: after `OutcomeUnknown` the caller looks with
    `find_created` before it asks again. `delete` of a machine that is gone is no error.
    """

    slug: str
    abilities: frozenset[Ability]

    def create(self, spec: Spec) -> Machine:
        """Create from an image, or restore a commit; may still be booting when it returns."""
        ...

    def find_created(self, spec: Spec, since: datetime, known: frozenset[str]) -> list[Machine]:
        """Machines that a `create` with this spec since then may have made, apart from known."""
        ...

    def branch(self, machine_id: str, count: int = 1) -> list[Machine]:
        """Living copies of a machine."""
        ...

    def commit(self, machine_id: str, name: str) -> str:
        """Save a machine; the id of the commit."""
        ...

    def pause(self, machine_id: str) -> None:
        """Freeze it, memory and all."""
        ...

    def resume(self, machine_id: str) -> None:
        """Let it go on."""
        ...

    def delete(self, machine_id: str) -> None:
        """Remove it for good."""
        ...

    def state(self, machine_id: str) -> Machine:
        """What it is now; raises NoSuchMachine."""
        ...

    def list(self) -> list[Machine]:
        """All machines that our key may see."""
        ...

    def login(self, machine_id: str, *, fresh: bool = False) -> Login:
        """How to reach it by SSH; `fresh` asks anew for what is kept of an earlier answer."""
        ...

    def address(self, machine_id: str) -> str:
        """The name under which the fleet may find it, as kept in the registry."""
        ...

    def check(self) -> KeyVerdict:
        """Whether our key is good; raises ProviderAway when nobody can tell."""
        ...
