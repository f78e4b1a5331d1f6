"""Machines at the end of an SSH connection on which lieutenants can run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from bootloader import providers
from bootloader.exceptions import NoSuchMachine
from bootloader.models import Machine, SshHost
from bootloader.providers.ssh import hosts as ssh_hosts
from bootloader.providers.ssh import shell
from bootloader.providers.ssh.connect import connect_machine
from bootloader.providers.ssh.protocol import Shell

if TYPE_CHECKING:
    from lieutenants.models import Lieutenant

GONE_HOST = "The SSH host is not registered any more"


@dataclass(frozen=True)
class Place:
    """A registered SSH host, by its primary key, or else a provider's VM, by its VM id.

    Both are empty for a destroyed lieutenant that has left nothing anywhere.
    """

    ssh_host: str = ""
    vm_id: str = ""

    def connect(self, timeout: float) -> Shell:
        """Log in. Raise ShellError, ProviderError, or NoSuchMachine if it is gone for good."""
        if self.vm_id:
            machine = self.machine()
            provider = providers.get(machine.provider)
            return connect_machine(provider, machine.machine_id, timeout)
        host = SshHost.objects.filter(pk=self.ssh_host).first() if self.ssh_host else None
        if host is None:
            raise NoSuchMachine(GONE_HOST)
        return shell.connect(ssh_hosts.login(host), timeout)

    def machine(self) -> Machine:
        """Return the row of the provider's VM. Raise NoSuchMachine."""
        found = Machine.objects.active().filter(vm_id=self.vm_id).first() if self.vm_id else None
        if found is None:
            raise NoSuchMachine(f"There is no machine of a provider with VM id '{self.vm_id}'")
        return found

    def expected_identity(self) -> str:
        """Return what `/etc/vm_id` of the right machine says, if it has one; empty if unknown."""
        return self.machine().machine_id if self.vm_id else ""


def place_of(lieutenant: Lieutenant) -> Place:
    """Return the machine on which a lieutenant with the transport `ssh` runs."""
    return Place(
        ssh_host=str(lieutenant.ssh_host_id or ""),
        vm_id="" if lieutenant.ssh_host_id else lieutenant.on_vm,
    )
