"""What the boot of one VM is made from: its profile, its identity, where it finds what it needs.

Pure data. `planning.make` puts it together from config; `render` and `cloud_init` make texts of it.
On the VM the boot script keeps everything in one folder, `REEF_HOME` (/opt/reef for root, else
~/.reef), and all of this is for its owner alone:

    identity.json        flat object, environment name → text: `BootPlan.identity()`, and after
                         joining VERS_AUTH_TOKEN, the VM's own token; mode 0600
    identity.env         the same as lines of shell, to be sourced; mode 0600
    bin/ run/ log/       programs, pid files, logs
    fleet_agent.py       from the roof; run as `python3 fleet_agent.py run --home <REEF_HOME>`
    agent/pi             the coding agent, with agent/installed.json beside it
    reef/                the VM's own reef: its packages and its data
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

# The boot script's steps in their order, as named in reports and on pages.
STEPS = ("dns", "identity", "packages", "agent", "reef", "join", "service", "health")


class Dist(Protocol):
    """What the roof hands out below `<roof>/bootloader/dist/`, by name and SHA-256 in hex.

    `dist.current()` has all of it; the names are never given to another content.
    """

    @property
    def version(self) -> str:
        """Of the wheel."""
        ...

    @property
    def wheel_name(self) -> str:
        """`reef-<version>-py3-none-any.whl`"""
        ...

    @property
    def wheel_sha256(self) -> str:
        """Of the wheel."""
        ...

    @property
    def lock_name(self) -> str:
        """The packages that reef runs on, with their hashes."""
        ...

    @property
    def lock_sha256(self) -> str:
        """Of the lock."""
        ...

    @property
    def body_name(self) -> str:
        """What all boot scripts have in common."""
        ...

    @property
    def body_sha256(self) -> str:
        """Of that."""
        ...

    @property
    def agent_name(self) -> str:
        """Of the fleet agent, one file of Python."""
        ...

    @property
    def agent_sha256(self) -> str:
        """Of the fleet agent."""
        ...


@dataclass(frozen=True)
class File:
    """A file that a profile brings: an absolute path, or one below REEF_HOME."""

    path: str
    text: str
    mode: int = 0o644


@dataclass(frozen=True)
class Size:
    """What a VM of a profile should have; None leaves it to config. MiB."""

    vcpus: int | None = None
    memory_mib: int | None = None
    disk_mib: int | None = None


@dataclass(frozen=True)
class Profile:
    """A kind of VM: its DNA, what is installed on it, its place in tree and registry.

    `category` is the tree's word, `role` the registry's, `agent_role` what VERS_AGENT_ROLE says.
    """

    type: str
    organs: tuple[str, ...]
    capabilities: tuple[str, ...]
    install_pi_vers: bool
    description: str
    category: str
    role: str
    agent_role: str
    agent: bool = True
    own_reef: bool = False
    packages: tuple[str, ...] = ()
    files: tuple[File, ...] = ()
    size: Size = Size()
    built_in: bool = False

    @property
    def dna(self) -> dict[str, list[str]]:
        """As the tree and the registry keep it (`reefConfig`)."""
        return {"organs": list(self.organs), "capabilities": list(self.capabilities)}

    def with_extras(self, organs: tuple[str, ...], capabilities: tuple[str, ...]) -> Profile:
        """The same with more DNA; what it has already is not doubled."""
        return replace(
            self,
            organs=tuple(dict.fromkeys(self.organs + organs)),
            capabilities=tuple(dict.fromkeys(self.capabilities + capabilities)),
        )


@dataclass(frozen=True)
class BootPlan:
    """Everything about one boot. Texts may be anything but have no NUL and are whole Unicode.

    An empty `vm_id` makes a script that takes id, name, parent and token from its environment
    (VERS_VM_ID, VERS_AGENT_NAME, REEF_PARENT_VM_ID, REEF_JOIN_TOKEN or VERS_AUTH_TOKEN).
    """

    vm_id: str
    name: str
    profile: Profile
    roof_url: str
    # For one use, bound to this VM and profile; see `joining.issue`.
    join_token: str = field(default="", repr=False)
    parent_vm_id: str | None = None
    # Under which name others find it, as kept in the registry. Empty: <vm_id>.<ssh_domain> on a
    # VM of the platform, else the address that it joins from.
    address: str = ""
    ssh_domain: str = "vm.vers.sh"
    # The provider's id, where the VM can tell it itself (/etc/vm_id): another one is refused.
    machine_id: str = ""
    # A mark of this run in the reports; the script makes one up where it is empty.
    run: str = ""
    user: str = "root"
    authorized_keys: tuple[str, ...] = ()
    # Empty: the version in the lock.
    agent_version: str = ""
    npm_registry: str = ""
    # Where a VM that brings no npm of its own gets one, if npm_registry says nothing.
    npm_source: str = ""
    pypi_index: str = ""
    apt_mirror: str = ""
    # Written to resolv.conf if the VM can find no names, as happens after a restore.
    nameservers: tuple[str, ...] = ("1.1.1.1", "8.8.8.8")
    # Where the VM's own reef listens, if the profile has one.
    reef_port: int = 3000
    # Beside the identity: the model, provider keys that its agents may have.
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    dist: Dist | None = None

    def identity(self) -> dict[str, str]:
        """Environment of everything that runs for reef on the VM; its own token comes later."""
        known = {
            **self.env,
            "VERS_VM_ID": self.vm_id,
            "VERS_AGENT_NAME": self.name,
            "VERS_AGENT_ROLE": self.profile.agent_role,
            "VERS_INFRA_URL": self.roof_url,
            "REEF_VM_TYPE": self.profile.type,
            "REEF_CATEGORY": self.profile.category,
            "REEF_ROLE": self.profile.role,
            "REEF_ORGANS": ",".join(self.profile.organs),
            "REEF_CAPABILITIES": ",".join(self.profile.capabilities),
        }
        if self.address:
            known["REEF_ADDRESS"] = self.address
        if self.parent_vm_id:
            known["REEF_PARENT_VM_ID"] = self.parent_vm_id
        return known
