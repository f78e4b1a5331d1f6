"""Resolve a provisioning's machine specification from its request, then its profile, then
config.
"""

from __future__ import annotations

from typing import Any

from bootloader import providers
from bootloader.boot import profiles
from bootloader.boot.plan import Profile, Size
from bootloader.models import Provisioning
from bootloader.providers.base import Ability
from bootloader.provisioning.requests import ProvisionRequest, request_of_row
from versconfig import config
from vmtree.models import Node

# Names of the fields for people.
LABELS = {
    "commit": "Commit",
    "image": "Image",
    "kernel": "Kernel",
    "region": "Region",
    "size": "Size",
    "vcpus": "Processors",
    "memory_mib": "Memory (MiB)",
    "disk_mib": "Disk (MiB)",
    "labels": "Labels",
}
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
    return Node.objects.active().filter(vm_id=row.parent_vm_id).first()


def profile_of(vm_request: ProvisionRequest) -> Profile:
    """Return the profile with the request's extras. Raise UnknownProfile."""
    profile = profiles.get(vm_request.profile)
    return profile.with_extras(vm_request.extra_organs, vm_request.extra_capabilities)


def spec_of(row: Provisioning) -> tuple[dict[str, Any], list[str]]:
    """Return the set fields of `providers.base.Spec`, and lines that explain their sources.

    Raise UnknownProfile and the errors of config.
    """
    return spec_of_request(request_of_row(row), parent_of(row))


def spec_of_request(
    vm_request: ProvisionRequest, node: Node | None
) -> tuple[dict[str, Any], list[str]]:
    """Return the same for a request that has no row yet."""
    spec, explanation = _source(vm_request, node)
    size = profile_of(vm_request).size if vm_request.profile else Size()
    for name, key in _NUMBERS.items():
        requested, usual = getattr(vm_request, name), getattr(size, name)
        found = config.integer(key, node)
        value = requested or usual or found
        if value:
            source = "request" if requested else "profile" if usual else _origin(key, node)
            spec[name] = value
            explanation.append(f"{LABELS[name]}: {value} ({source})")
    labels = {**config.pairs("REEF_VM_LABELS", node), **vm_request.labels}
    if labels:
        spec["labels"] = labels
        explanation.append(
            "Labels: " + ", ".join(f"{key}={value}" for key, value in labels.items())
        )
    return spec, explanation


def _source(vm_request: ProvisionRequest, node: Node | None) -> tuple[dict[str, Any], list[str]]:
    """Resolve the commit, or the image and its options.

    A requested image beats a configured commit.
    """
    spec: dict[str, Any] = {}
    explanation: list[str] = []
    usual = Ability.RESTORE in providers.get(vm_request.provider).abilities
    if not usual:
        explanation.append(
            f"{vm_request.provider} machines are what they are: no commit or image by config"
        )
    commit = vm_request.commit or (
        config.text("REEF_VM_COMMIT", node) if usual and not vm_request.image else ""
    )
    if commit:
        spec["commit"] = commit
        explanation.append(f"Commit: {commit} ({_from(vm_request.commit, 'REEF_VM_COMMIT', node)})")
    for name, key in _TEXTS.items():
        if commit and name in ("image", "kernel"):
            continue
        requested = getattr(vm_request, name)
        value = requested or (config.text(key, node) if usual else "")
        if value:
            spec[name] = value
            explanation.append(f"{LABELS[name]}: {value} ({_from(requested, key, node)})")
    return spec, explanation


def _from(requested: str, key: str, node: Node | None) -> str:
    return "request" if requested else _origin(key, node)


def _origin(key: str, node: Node | None) -> str:
    """Return the config source of a value, such as `store, fleet`."""
    return config.resolve(key, node).where
