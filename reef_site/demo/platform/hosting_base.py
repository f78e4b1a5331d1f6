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
    """This machine failed to host a VM; the message gives the reason."""


@dataclass(frozen=True)
class Boot:
    """Boot parameters of a VM: files to write, and paths to remove from its disk."""

    vm: Vm
    files: list[File] = field(default_factory=list)
    remove: tuple[str, ...] = ()


class Hosting(Protocol):
    """VMs on this machine. `user` can log in to them, and the home folder of a VM is /root."""

    mode: str
    user: str
    # Called with the id of a VM that ended unexpectedly.
    on_vm_ended: Callable[[str], None]

    @property
    def address(self) -> str:
        """Return the address at which VMs reach this machine."""
        ...

    async def open(self) -> None:
        """Prepare for VMs. Raises HostingError if this machine does not allow them."""
        ...

    async def close(self) -> None:
        """End all VMs and remove everything."""
        ...

    def clear(self) -> None:
        """Remove what a killed emulator left behind."""
        ...

    async def boot(self, boot: Boot) -> None:
        """Boot a VM and wait for its SSH server."""
        ...

    async def kill(self, vm_id: str) -> None:
        """End a VM and remove its disk."""
        ...

    def crash(self, vm_id: str) -> None:
        """Kill the first process of a VM."""
        ...

    async def freeze(self, vm_id: str) -> None:
        """Stop all processes of a VM."""
        ...

    async def thaw(self, vm_id: str) -> None:
        """Continue all processes of a VM."""
        ...

    async def save(self, vm_id: str, layer: str, *, lose_unsynced: bool) -> None:
        """Copy the writable layer of a VM's disk."""
        ...

    def remove_layer(self, layer: str) -> None:
        """Remove a saved disk."""
        ...

    def endpoint(self, vm_id: str, port: int) -> tuple[str, int]:
        """Return the address at which this machine reaches a port of the VM."""
        ...

    def ip(self, vm: Vm) -> str:
        """Return the address that the API reports."""
        ...

    def command_inside(self, vm_id: str, argv: list[str]) -> list[str]:
        """Return the command that runs `argv` inside the VM."""
        ...

    def path(self, vm_id: str, path: str) -> str:
        """Return the form of a VM's path for commands of `command_inside`."""
        ...

    def environment_file(self, vm_id: str) -> str:
        """Return the content of the VM's /etc/environment."""
        ...

    async def set_cable(self, vm_id: str, *, up: bool) -> None:
        """Disconnect the VM's network cable, or connect it again."""
        ...


async def wait_for_connection(host: str, port: int) -> None:
    """Wait until the port accepts connections. The caller limits the time."""
    while True:
        with contextlib.suppress(OSError):
            _, writer = await asyncio.open_connection(host, port)
            writer.close()
            return
        await asyncio.sleep(0.01)
