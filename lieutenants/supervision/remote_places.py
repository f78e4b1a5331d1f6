"""Choice of the machine on which a new remote lieutenant runs."""

from __future__ import annotations

from dataclasses import dataclass

from bootloader.models import Machine, SshHost
from lieutenants.exceptions import NoProvider
from lieutenants.models import Lieutenant
from reef_site.common.errors import BadInput
from reef_site.common.text import clip, is_storable
from vmtree import permissions
from vmtree.models import Node
from vmtree.permissions import Action

NO_REMOTE = (
    "local: say where else it runs: vmId, a VM of a provider that is there, or sshHost, the name "
    "of a registered SSH host; POST /bootloader/provision makes VMs"
)
NO_COMMITS = "commitId: lieutenants are not created from commits; provision a VM, and give its vmId"

_MAX_OFFERED = 500


@dataclass(frozen=True)
class NewPlace:
    """The machine, and the node below which its lieutenants stand unless requested otherwise."""

    name: str
    vm_id: str = ""
    ssh_host: SshHost | None = None
    parent: Node | None = None

    def assign(self, lieutenant: Lieutenant) -> None:
        """Make an unsaved lieutenant run here."""
        lieutenant.transport = "ssh"
        lieutenant.host = self.name
        lieutenant.on_vm, lieutenant.ssh_host = self.vm_id, self.ssh_host


def find(vm_id: str, ssh_host: str, commit_id: str, actor: object) -> NewPlace:
    """Return the machine that a request names. Raises NoProvider, BadInput, Forbidden."""
    if commit_id:
        raise NoProvider(NO_COMMITS)
    for name, text in (("vmId", vm_id), ("sshHost", ssh_host)):
        if not is_storable(text):
            raise BadInput(f"{name}: has characters that are no text", name)
    if vm_id and ssh_host:
        raise BadInput("sshHost: give either a vmId or an sshHost", "sshHost")
    if vm_id:
        return _find_vm(vm_id, actor)
    if ssh_host:
        return _find_host(ssh_host, actor)
    raise NoProvider(NO_REMOTE)


def offered() -> list[tuple[str, str]]:
    """Return the machines that a form offers: value and label. See `CreateLieutenant` for names."""
    hosts = SshHost.objects.filter(in_service=True).values_list("name", flat=True)
    machines = Machine.objects.active().exclude(vm_id="")
    vms = machines.values_list("vm_id", "name", "provider")
    found = [(f"ssh_host:{name}", f"{name} (SSH host)") for name in hosts[:_MAX_OFFERED]]
    for vm_id, name, provider in vms[:_MAX_OFFERED]:
        found.append((f"vm_id:{vm_id}", f"{name or vm_id} ({provider} VM)"))
    return found


def check_folder(folder: str) -> str:
    """Return a working folder on the machine. Raises BadInput unless it is an absolute path."""
    if folder and not folder.startswith(("/", "~/")):
        raise BadInput(
            "folder: must be an absolute path on the machine, or begin with ~/", "folder"
        )
    return folder


def _find_vm(vm_id: str, actor: object) -> NewPlace:
    node = Node.objects.active().filter(vm_id=vm_id).first()
    permissions.check(actor, Action.COMMAND, node or vm_id)
    machine = Machine.objects.active().filter(vm_id=vm_id).first()
    if machine is None:
        raise BadInput(f"vmId: no provider has a machine for VM '{clip(vm_id, 100)}'", "vmId")
    return NewPlace(name=machine.name or vm_id, vm_id=vm_id, parent=node)


def _find_host(name: str, actor: object) -> NewPlace:
    # Hosts are the operator's own machines: a node's token starts nothing on them.
    permissions.check(actor, Action.START_BELOW, None)
    host = SshHost.objects.filter(name=name).first()
    if host is None:
        raise BadInput(f"sshHost: there is no SSH host '{clip(name, 100)}'", "sshHost")
    if not host.in_service:
        raise BadInput(f"sshHost: the SSH host '{name}' is not in service", "sshHost")
    return NewPlace(name=host.name, ssh_host=host)
