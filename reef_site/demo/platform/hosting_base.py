"""The interface for running VMs on this machine, with two implementations."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from reef_site.demo.platform.guest import File
from reef_site.demo.platform.store import Vm


class HostingError(Exception):
    """This machine did not do it; the text says why."""


@dataclass(frozen=True)
class Boot:
    """Boot parameters of a VM: files to write, and paths to remove from its disk."""

    vm: Vm
    files: list[File] = field(default_factory=list)
    remove: tuple[str, ...] = ()


class Hosting(Protocol):
    """VMs of this machine. `user` logs in; the home of a VM is its /root."""

    mode: str
    user: str
    # Called with the id of a VM that ended without being asked to.
    ended: Callable[[str], None]

    @property
    def address(self) -> str:
        """Return the address at which VMs reach this machine."""
        ...

    async def open(self) -> None:
        """Make ready; raises HostingError where that cannot be."""
        ...

    async def close(self) -> None:
        """End every VM and leave nothing."""
        ...

    def clear(self) -> None:
        """Take away what an emulator that was killed left behind."""
        ...

    async def boot(self, boot: Boot) -> None:
        """Bring a VM up, to its SSH server."""
        ...

    async def kill(self, vm_id: str) -> None:
        """End a VM and remove its disk; none of it stays."""
        ...

    def crash(self, vm_id: str) -> None:
        """Have a VM's first process die."""
        ...

    async def freeze(self, vm_id: str) -> None:
        """Stop every process of a VM where it stands."""
        ...

    async def thaw(self, vm_id: str) -> None:
        """Let them go on."""
        ...

    async def save(self, vm_id: str, layer: str, *, lose_unsynced: bool) -> None:
        """Copy a VM's own part of its disk."""
        ...

    def drop(self, layer: str) -> None:
        """Remove a saved disk."""
        ...

    def door(self, vm_id: str, port: int) -> tuple[str, int]:
        """Return the address at which this machine reaches a port of the VM."""
        ...

    def ip(self, vm: Vm) -> str:
        """The address that the API tells."""
        ...

    def inside(self, vm_id: str, argv: list[str]) -> list[str]:
        """The command that runs another inside the VM."""
        ...

    def path(self, vm_id: str, path: str) -> str:
        """Return the form of a VM's path for commands run by `inside`."""
        ...

    def environment_file(self, vm_id: str) -> str:
        """The text of the VM's /etc/environment."""
        ...

    async def cable(self, vm_id: str, *, up: bool) -> None:
        """Pull the VM's network cable, or put it back."""
        ...


async def until_it_answers(host: str, port: int) -> None:
    """Wait until something takes connections there; the caller sets the limit."""
    while True:
        with contextlib.suppress(OSError):
            _, writer = await asyncio.open_connection(host, port)
            writer.close()
            return
        await asyncio.sleep(0.01)
