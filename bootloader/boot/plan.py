"""The input of one VM's boot: its profile, its identity, and where it finds packages.

Pure data. `plan_builder.make_plan` builds it from config; `render` and `cloud_init` turn it into
text. On the VM the boot script keeps everything in one folder, `REEF_HOME` (/opt/reef for root,
otherwise ~/.reef), readable by its owner only:

    identity.json        flat object, environment name → text: `BootPlan.identity()`, and after
                         joining VERS_AUTH_TOKEN, the VM's own token; mode 0600
    identity.env         the same as lines of shell, to be sourced; mode 0600
    bin/ run/ log/       programs, pid files, logs
    fleet_agent.py       from the root; run as `python3 fleet_agent.py run --home <REEF_HOME>`
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
    """Files served by the root below `<root>/bootloader/dist/`, with their SHA-256 in hex.

    `downloads.current()` provides all of them; a name never refers to different content.
    """

    @property
    def version(self) -> str:
        """Return the version of the wheel."""
        ...

    @property
    def wheel_name(self) -> str:
        """Return `reef-<version>-py3-none-any.whl`."""
        ...

    @property
    def wheel_sha256(self) -> str:
        """Return the digest of the wheel."""
        ...

    @property
    def lock_name(self) -> str:
        """Return the name of the lock file: the packages that reef needs, with their hashes."""
        ...

    @property
    def lock_sha256(self) -> str:
        """Return the digest of the lock file."""
        ...

    @property
    def body_name(self) -> str:
        """Return the name of the constant part of all boot scripts."""
        ...

    @property
    def body_sha256(self) -> str:
        """Return the digest of that part."""
        ...

    @property
    def agent_name(self) -> str:
        """Return the name of the fleet agent, a single Python file."""
        ...

    @property
    def agent_sha256(self) -> str:
        """Return the digest of the fleet agent."""
        ...


@dataclass(frozen=True)
class File:
    """A file of a profile: an absolute path, or one relative to REEF_HOME."""

    path: str
    text: str
    mode: int = 0o644


@dataclass(frozen=True)
class Size:
    """The intended size of a profile's VMs, in MiB; None falls back to config."""

    vcpus: int | None = None
    memory_mib: int | None = None
    disk_mib: int | None = None


@dataclass(frozen=True)
class Profile:
    """A kind of VM: its composition, installed software, and place in tree and registry.

    `category` is used by the tree, `role` by the registry; `agent_role` is the value of
    VERS_AGENT_ROLE.
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
        """Return the composition as stored in tree and registry (`reefConfig`)."""
        return {"organs": list(self.organs), "capabilities": list(self.capabilities)}

    def with_extras(self, organs: tuple[str, ...], capabilities: tuple[str, ...]) -> Profile:
        """Return a copy with additional organs and capabilities, without duplicates."""
        return replace(
            self,
            organs=tuple(dict.fromkeys(self.organs + organs)),
            capabilities=tuple(dict.fromkeys(self.capabilities + capabilities)),
        )


@dataclass(frozen=True)
class BootPlan:
    """All parameters of one boot. Texts contain no NUL and are valid Unicode.

    An empty `vm_id` makes a script that takes id, name, parent and token from its environment
    (VERS_VM_ID, VERS_AGENT_NAME, REEF_PARENT_VM_ID, REEF_JOIN_TOKEN or VERS_AUTH_TOKEN).
    """

    vm_id: str
    name: str
    profile: Profile
    roof_url: str
    # Single use, bound to this VM and profile; see `join.tokens.issue`.
    join_token: str = field(default="", repr=False)
    parent_vm_id: str | None = None
    # Host name in the registry. Empty: <vm_id>.<ssh_domain> on a VM of the platform, otherwise the
    # address that it joins from.
    address: str = ""
    ssh_domain: str = "vm.vers.sh"
    # The provider's id. A VM that reports another one (/etc/vm_id) is rejected.
    machine_id: str = ""
    # Id of this run in reports; the script generates one if it is empty.
    run: str = ""
    user: str = "root"
    authorized_keys: tuple[str, ...] = ()
    # Empty: the version in the lock.
    agent_version: str = ""
    npm_registry: str = ""
    # Where a VM without npm downloads it, if npm_registry is empty.
    npm_source: str = ""
    pypi_index: str = ""
    apt_mirror: str = ""
    # Written to resolv.conf if name resolution fails, as happens after a restore.
    nameservers: tuple[str, ...] = ("1.1.1.1", "8.8.8.8")
    # Port of the VM's own reef, if the profile has one.
    reef_port: int = 3000
    # Additional environment: the model, provider keys for its agents.
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    dist: Dist | None = None

    def identity(self) -> dict[str, str]:
        """Return the environment of all reef processes on the VM, without the token, which
        joining adds.
        """
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
