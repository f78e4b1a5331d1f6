"""Resolve a provisioning's machine specification from its request, then its profile, then
config.
"""

from __future__ import annotations

from typing import Any

from bootloader import profiles, providers
from bootloader.models import Provisioning
from bootloader.plan import Profile
from bootloader.providers.base import Ability
from bootloader.provisioning.wishes import ProvisionRequest, request_of_row
from versconfig import config
from vmtree.models import Node

_TEXTS = {
    "image": "REEF_VM_IMAGE",
    "kernel": "REEF_VM_KERNEL",
    "region": "REEF_VM_REGION",
    "size": "REEF_VM_SIZE",
}
_NUMBERS = {
    "vcpus": "REEF_VM_VCPUS",
    "memory_mib": "REEF_VM_MEMORY_MIB",
    "disk_mib": "REEF_VM_DISK_MIB",
}


def parent_of(row: Provisioning) -> Node | None:
    """Return the node below which the VM comes; config is resolved there."""
    return Node.objects.living().filter(vm_id=row.parent_vm_id).first()


def profile_of(wish: ProvisionRequest) -> Profile:
    """Return the profile with the request's extras. Raise UnknownProfile."""
    profile = profiles.get(wish.profile)
    return profile.with_extras(wish.extra_organs, wish.extra_capabilities)


def spec_of(row: Provisioning) -> tuple[dict[str, Any], list[str]]:
    """Return the set fields of `providers.base.Spec`, and lines that explain their sources.

    Raise UnknownProfile and the errors of config.
    """
    return spec_of_request(request_of_row(row), parent_of(row))


def spec_of_request(wish: ProvisionRequest, node: Node | None) -> tuple[dict[str, Any], list[str]]:
    """Return the same for a request that has no row yet."""
    spec, told = _source(wish, node)
    size = profile_of(wish).size
    for name, key in _NUMBERS.items():
        wished, usual = getattr(wish, name), getattr(size, name)
        found = config.integer(key, node)
        value = wished or usual or found
        if value:
            source = "wish" if wished else "profile" if usual else _origin(key, node)
            spec[name] = value
            told.append(f"{name} = {value} ({source})")
    labels = {**config.pairs("REEF_VM_LABELS", node), **wish.labels}
    if labels:
        spec["labels"] = labels
        told.append("labels = " + ", ".join(f"{key}={value}" for key, value in labels.items()))
    return spec, told


def _source(wish: ProvisionRequest, node: Node | None) -> tuple[dict[str, Any], list[str]]:
    """Resolve the commit, or the image and its options.

    A requested image beats a configured commit.
    """
    spec: dict[str, Any] = {}
    told: list[str] = []
    usual = Ability.RESTORE in providers.get(wish.provider).abilities
    if not usual:
        told.append(f"{wish.provider} machines are what they are: no commit or image by config")
    commit = wish.commit or (
        config.text("REEF_VM_COMMIT", node) if usual and not wish.image else ""
    )
    if commit:
        spec["commit"] = commit
        told.append(f"commit = {commit} ({_from(wish.commit, 'REEF_VM_COMMIT', node)})")
    for name, key in _TEXTS.items():
        if commit and name in ("image", "kernel"):
            continue
        wished = getattr(wish, name)
        value = wished or (config.text(key, node) if usual else "")
        if value:
            spec[name] = value
            told.append(f"{name} = {value} ({_from(wished, key, node)})")
    return spec, told


def _from(wished: str, key: str, node: Node | None) -> str:
    return "wish" if wished else _origin(key, node)


def _origin(key: str, node: Node | None) -> str:
    """Return the config source of a value, such as `store, fleet`."""
    return config.resolve(key, node).where
