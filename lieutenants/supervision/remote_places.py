"""Choice of the machine on which a new remote lieutenant runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from django.db.models import Q

from bootloader.boot import profiles
from bootloader.models import Machine, SshHost
from bootloader.provisioning import requests
from lieutenants.exceptions import NoProvider, NotNow
from lieutenants.models import Lieutenant
from lieutenants.supervision import machine_locks, made_vms
from lieutenants.supervision.made_vms import NewVM
from reef_site.common.errors import BadInput
from reef_site.common.text import clip, is_storable
from versconfig import config, keys
from vmtree import permissions
from vmtree.models import Node
from vmtree.permissions import Action

NO_REMOTE = (
    "local: say where else it runs: vmId, a VM of a provider that is there, sshHost, the name "
    "of a registered SSH host, or profile or commitId, for a VM that is made for it"
)
NO_KEY = "local: VMs cannot be made, as {} has no value; give a vmId or an sshHost instead"
_WAYS = {"vmId": "vm_id", "sshHost": "ssh_host", "commitId": "commit_id", "profile": "profile"}

_MAX_OFFERED = 500


@dataclass(frozen=True)
class NewPlace:
    """The machine, and the node below which its lieutenants stand unless requested otherwise."""

    name: str
    vm_id: str = ""
    ssh_host: SshHost | None = None
    parent: Node | None = None
    new_vm: NewVM | None = None

    def assign(self, lieutenant: Lieutenant) -> None:
        """Make an unsaved lieutenant run here."""
        lieutenant.transport = "ssh"
        # Until the machine is there it has the name of the lieutenant.
        lieutenant.host = self.name or lieutenant.name
        lieutenant.on_vm, lieutenant.ssh_host = self.vm_id, self.ssh_host

    def claim(self) -> None:
        """Lock the VM until the commit. Raises NotNow if it is being deleted."""
        if self.vm_id:
            machine_locks.lock(self.vm_id)
            made_vms.check_stays(self.vm_id)


class Request(Protocol):
    """The fields of a request for a lieutenant that say where it runs."""

    @property
    def vm_id(self) -> str: ...
    @property
    def ssh_host(self) -> str: ...
    @property
    def commit_id(self) -> str: ...
    @property
    def profile(self) -> str: ...
    @property
    def on_failure(self) -> str: ...


def find(request: Request, parent: Node | None, actor: object) -> NewPlace:
    """Return the machine that a request names. Raises NoProvider, BadInput, Forbidden."""
    given = {name: getattr(request, field).strip() for name, field in _WAYS.items()}
    _check_alone(given)
    if given["vmId"]:
        return _find_vm(given["vmId"], actor)
    if given["sshHost"]:
        return _find_host(given["sshHost"], actor)
    profile, commit = given["profile"], given["commitId"]
    if not profile and not commit:
        profile = config.text("REEF_LIEUTENANT_PROFILE", parent)
    if not profile and not commit:
        raise NoProvider(NO_REMOTE)
    if profile:
        requests.parse_profile(profile)
    if missing := _missing_key(parent):
        raise NoProvider(NO_KEY.format(missing))
    return NewPlace(name="", new_vm=NewVM(profile, commit, request.on_failure))


def _check_alone(given: Mapping[str, str]) -> None:
    """Raise BadInput unless the texts by their names say at most one thing."""
    for name, text in given.items():
        if not is_storable(text):
            raise BadInput(f"{name}: has characters that are no text", name)
    if given["vmId"] and given["sshHost"]:
        raise BadInput("sshHost: give either a vmId or an sshHost", "sshHost")
    for name in ("commitId", "profile"):
        if given[name] and (given["vmId"] or given["sshHost"]):
            raise BadInput(f"{name}: is for a new VM; give neither vmId nor sshHost", name)


def offered() -> list[tuple[str, str]]:
    """Return the machines that a form offers: value and label. See `CreateLieutenant` for names."""
    hosts = SshHost.objects.filter(in_service=True).values_list("name", flat=True)
    machines = Machine.objects.active().exclude(vm_id="")
    vms = machines.values_list("vm_id", "name", "provider")
    found = [(f"ssh_host:{name}", f"{name} (SSH host)") for name in hosts[:_MAX_OFFERED]]
    for vm_id, name, provider in vms[:_MAX_OFFERED]:
        found.append((f"vm_id:{vm_id}", f"{name or vm_id} ({provider} VM)"))
    if _can_make_vms():
        kinds = profiles.types()[:_MAX_OFFERED]
        found += [(f"profile:{kind}", f"a new VM ({kind})") for kind in kinds]
    return found


def _can_make_vms() -> bool:
    """Return whether the usual provider has what it needs to make VMs, as far as is known."""
    if config.text("REEF_VM_PROVIDER") == "ssh":
        return SshHost.objects.free().exists()
    return not _missing_key(None)


def _missing_key(node: Node | None) -> str:
    """Return the config key with the API key of the usual provider if that has no value."""
    key = f"{config.text('REEF_VM_PROVIDER', node).upper()}_API_KEY"
    return key if key in keys.ALL and not config.secret(key, node) else ""


def check_room(place: NewPlace) -> None:
    """Raise NotNow if there are as many lieutenants on the machine as there may be.

    Requests at the same time may exceed it by a few.
    """
    if place.new_vm is not None:
        return
    where = Q(on_vm=place.vm_id) if place.vm_id else Q(ssh_host=place.ssh_host)
    here = Lieutenant.objects.active().filter(where, transport="ssh")
    count, most = here.count(), config.integer("REEF_VM_LIEUTENANTS", place.parent)
    if count >= most:
        raise NotNow(
            f"{place.name} has {count} lieutenants, and may have {most} (REEF_VM_LIEUTENANTS)"
        )


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
