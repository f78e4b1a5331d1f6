"""Requests for VMs, and the rules that they must follow."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from bootloader.boot import catalog, profiles
from bootloader.states import CleanupPolicy
from reef_site.common.errors import BadInput, ReefError
from reef_site.common.request_values import choice_of
from versconfig import keys, values

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
MAX_COUNT = 100
_VERSION = keys.ALL["REEF_AGENT_VERSION"]


@dataclass(frozen=True)
class ProvisionRequest:
    """A request for VMs. Empty and None values fall back to config or the profile."""

    name: str
    profile: str
    parent_vm_id: str = ""
    provider: str = ""
    commit: str = ""
    image: str = ""
    kernel: str = ""
    region: str = ""
    size: str = ""
    vcpus: int | None = None
    memory_mib: int | None = None
    disk_mib: int | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    extra_organs: tuple[str, ...] = ()
    extra_capabilities: tuple[str, ...] = ()
    agent_version: str = ""
    roof_url: str = ""
    on_failure: str = CleanupPolicy.KEEP
    # None is one VM with exactly this name; otherwise this many, named <name>-1 and so on.
    count: int | None = None

    def names(self) -> list[str]:
        """Return the names of the VMs in order. Raise BadInput."""
        if self.count is None:
            return [self.name]
        width = len(str(self.count))
        names = [f"{self.name}-{number:0{width}}" for number in range(1, self.count + 1)]
        return [parse_name(name) for name in names]

    def stored(self) -> dict[str, Any]:
        """Return the values that are stored as JSON beside the row's columns; `of_row` reads
        them.
        """
        columns = {"name", "profile", "parent_vm_id", "provider", "on_failure", "count"}
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in asdict(self).items()
            if name not in columns and value not in ("", None, (), {})
        }


def request_of_row(row: Any) -> ProvisionRequest:
    """Return the request for the single VM of a provisioning's row."""
    stored: dict[str, Any] = {
        name: tuple(v) if isinstance(v, list) else v for name, v in row.wish.items()
    }
    return ProvisionRequest(
        name=row.name,
        profile=row.profile,
        parent_vm_id=row.parent_vm_id,
        provider=row.provider,
        on_failure=row.on_failure,
        **stored,
    )


def check(vm_request: ProvisionRequest) -> None:
    """Check values that depend on each other or on the catalog. Raise BadInput."""
    vm_request.names()
    if vm_request.commit and vm_request.image:
        raise BadInput("image: a commit is restored as it is; say commitId or image", "image")
    if vm_request.agent_version and (wrong := values.problem(_VERSION, vm_request.agent_version)):
        raise BadInput(f"agentVersion: {wrong}, such as {_VERSION.default}", "agentVersion")
    catalog.check(vm_request.extra_organs, catalog.EXTRA_ORGANS, "extraOrgans")
    catalog.check(vm_request.extra_capabilities, catalog.CAPABILITIES, "extraCapabilities")


def parse_name(value: object) -> str:
    """Return the name of a VM to be provisioned. Raise BadInput."""
    name = value.strip() if isinstance(value, str) else ""
    if not name:
        raise BadInput("name is required", "name")
    if not NAME.fullmatch(name):
        rule = "1 to 64 letters, digits, dots, dashes and underscores, a letter or digit first"
        raise BadInput(f"name: must be {rule}", "name")
    return name


def parse_cleanup(value: object) -> CleanupPolicy | None:
    """Return the cleanup policy in a cancellation's `machine`, if given. Raise BadInput."""
    if value is None:
        return None
    return CleanupPolicy(choice_of(value, "machine", CleanupPolicy.values))


def parse_profile(kind: str) -> str:
    """Return the type of a known profile. Raise BadInput."""
    try:
        return profiles.get(kind).type
    except ReefError as error:
        raise BadInput(str(error), "type") from None
