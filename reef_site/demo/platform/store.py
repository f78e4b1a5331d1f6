"""The platform's data in one file: VMs, commits, tags, repositories and account settings."""

from __future__ import annotations

import asyncio
import json
import os
import uuid
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any


def now() -> str:
    """Return the current time in the platform's format."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def new_id() -> str:
    return str(uuid.uuid4())


@dataclass
class Vm:
    """A VM. `layers` are the saved disks below its own, newest first. Sizes are in MiB."""

    vm_id: str
    owner_id: str
    org: str
    number: int
    labels: dict[str, str] = field(default_factory=dict)
    vcpus: int = 1
    memory_mib: int = 512
    disk_mib: int = 1024
    layers: list[str] = field(default_factory=list)
    parent_commit_id: str | None = None
    grandparent_vm_id: str | None = None
    restored: bool = False
    created_at: str = field(default_factory=now)
    state: str = "booting"
    private_key: str = field(default="", repr=False)
    public_key: str = ""
    # In seconds of the event loop's clock.
    running_since: float = 0.0
    # Set when the boot has succeeded or failed.
    boot_done: asyncio.Event = field(default_factory=asyncio.Event, repr=False)
    lock: asyncio.Lock = field(default_factory=asyncio.Lock, repr=False)


@dataclass
class Commit:
    """A saved VM: the layers of its disk, and its size."""

    commit_id: str
    owner_id: str
    org: str
    name: str
    layers: list[str]
    parent_vm_id: str | None = None
    grandparent_commit_id: str | None = None
    description: str | None = None
    is_public: bool = False
    created_at: str = field(default_factory=now)
    vcpus: int = 1
    memory_mib: int = 512
    disk_mib: int = 1024


@dataclass
class Tag:
    """A name of a commit. `repo` is empty for flat tags, the older kind."""

    tag_id: str
    org: str
    repo: str
    tag_name: str
    commit_id: str
    description: str | None = None
    created_at: str = field(default_factory=now)
    updated_at: str = field(default_factory=now)


@dataclass
class Repository:
    """A folder of tags."""

    repo_id: str
    org: str
    name: str
    description: str | None = None
    is_public: bool = False
    created_at: str = field(default_factory=now)


@dataclass
class Domain:
    """A domain of the customer's that leads to a VM."""

    domain_id: str
    owner_id: str
    vm_id: str
    domain: str
    created_at: str = field(default_factory=now)


@dataclass
class Account:
    """An API key with its organisation. All keys of an `org` share its VMs and commits."""

    key: str = field(repr=False)
    org: str

    @property
    def owner_id(self) -> str:
        """Return the owner id that the platform shows for the key."""
        return self.key[:36]


@dataclass
class Store:
    """All data of the platform. `file` keeps everything except VMs and domains."""

    file: Path
    vms: dict[str, Vm] = field(default_factory=dict)
    commits: dict[str, Commit] = field(default_factory=dict)
    tags: dict[tuple[str, str, str], Tag] = field(default_factory=dict)
    repositories: dict[tuple[str, str], Repository] = field(default_factory=dict)
    domains: dict[str, Domain] = field(default_factory=dict)
    accounts: dict[str, Account] = field(default_factory=dict)
    env_vars: dict[str, dict[str, str]] = field(default_factory=dict)

    @classmethod
    def load(cls, file: Path) -> Store:
        """Load the data of an earlier run, if there is any."""
        store = cls(file)
        if not file.exists():
            return store
        facts: dict[str, Any] = json.loads(file.read_text())
        store.commits = {one["commit_id"]: Commit(**one) for one in facts["commits"]}
        for one in (Tag(**each) for each in facts["tags"]):
            store.tags[one.org, one.repo, one.tag_name] = one
        for each in (Repository(**each) for each in facts["repositories"]):
            store.repositories[each.org, each.name] = each
        store.accounts = {one["key"]: Account(**one) for one in facts["accounts"]}
        store.env_vars = facts["env_vars"]
        return store

    def save(self) -> None:
        """Write everything that is kept to `file` atomically."""
        facts = {
            "commits": [asdict(one) for one in self.commits.values()],
            "tags": [asdict(one) for one in self.tags.values()],
            "repositories": [asdict(one) for one in self.repositories.values()],
            "accounts": [asdict(one) for one in self.accounts.values()],
            "env_vars": self.env_vars,
        }
        draft = self.file.with_suffix(".new")
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as out:
            json.dump(facts, out)
        draft.replace(self.file)

    def layers_in_use(self) -> set[str]:
        """Return the layers that VMs and commits use."""
        used = [*(vm.layers for vm in self.vms.values())]
        used += [commit.layers for commit in self.commits.values()]
        return {layer for layers in used for layer in layers}

    def free_number(self) -> int:
        """Return the smallest unused address number. Raises LookupError if all are in use."""
        taken = {vm.number for vm in self.vms.values()}
        for number in range(2, 254):
            if number not in taken:
                return number
        raise LookupError("no address left")
