"""Profiles of VMs: four built-in ones and the operators' custom ones."""

from __future__ import annotations

from bootloader.boot.catalog import BUILT_IN
from bootloader.boot.plan import Profile
from bootloader.exceptions import UnknownProfile
from bootloader.models import OwnProfile
from reef_site.common.text import is_storable


def get(type: str) -> Profile:  # noqa: A002
    """Return the profile of this type. Raise UnknownProfile."""
    if type in BUILT_IN:
        return BUILT_IN[type]
    own = OwnProfile.objects.filter(type=type).first() if is_storable(type) else None
    if own is None:
        raise UnknownProfile(type, types())
    return own.as_profile()


def all() -> dict[str, Profile]:  # noqa: A001
    """Return profiles by type: the built-in ones in their fixed order, then custom ones by name."""
    own = OwnProfile.objects.prefetch_related("files").order_by("type")
    return {**BUILT_IN, **{each.type: each.as_profile() for each in own}}


def types() -> list[str]:
    """Return the types in the same order."""
    return [*BUILT_IN, *OwnProfile.objects.order_by("type").values_list("type", flat=True)]
