"""What machine a provisioning asks for: what was wished, else the profile's size, else config."""

from __future__ import annotations

from typing import Any

from bootloader import profiles, providers
from bootloader.models import Provisioning
from bootloader.plan import Profile
from bootloader.providers.base import Ability
from bootloader.provisioning.wishes import Wish, of_row
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
    """The node below which the VM comes; config is resolved there."""
    return Node.objects.living().filter(vm_id=row.parent_vm_id).first()


def profile_of(wish: Wish) -> Profile:
    """The profile with what was wished beside it. Raises UnknownProfile."""
    profile = profiles.get(wish.profile)
    return profile.with_extras(wish.extra_organs, wish.extra_capabilities)


def spec_of(row: Provisioning) -> tuple[dict[str, Any], list[str]]:
    """The fields of `providers.base.Spec` that are said, and lines on where they come from.

    Raises UnknownProfile and what config raises.
    """
    return spec_of_wish(of_row(row), parent_of(row))


def spec_of_wish(wish: Wish, node: Node | None) -> tuple[dict[str, Any], list[str]]:
    """The same for VMs that are not asked for yet."""
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


def _source(wish: Wish, node: Node | None) -> tuple[dict[str, Any], list[str]]:
    """The commit, or the image and what goes with it. A wished image beats a golden commit."""
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
    """Where config has it from, such as `store, fleet`."""
    return config.resolve(key, node).where
