"""The kinds of VMs: four that never change, and those that operators have added."""

from __future__ import annotations

from bootloader.exceptions import UnknownProfile
from bootloader.models import OwnProfile
from bootloader.plan import Profile
from bootloader.words import BUILT_IN
from reef_site.common.text import is_storable


def get(type: str) -> Profile:  # noqa: A002
    """The profile of this type. Raises UnknownProfile."""
    if type in BUILT_IN:
        return BUILT_IN[type]
    own = OwnProfile.objects.filter(type=type).first() if is_storable(type) else None
    if own is None:
        raise UnknownProfile(type, types())
    return own.as_profile()


def all() -> dict[str, Profile]:  # noqa: A001
    """By type: the built-in ones in the contract's order, then the operators' own by name."""
    own = OwnProfile.objects.prefetch_related("files").order_by("type")
    return {**BUILT_IN, **{each.type: each.as_profile() for each in own}}


def types() -> list[str]:
    """The types in the same order."""
    return [*BUILT_IN, *OwnProfile.objects.order_by("type").values_list("type", flat=True)]
