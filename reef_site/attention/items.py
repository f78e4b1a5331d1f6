"""Items of all kinds that need attention. The apps find them (`common.attention`)."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from django.conf import settings

from reef_site.common.attention import (
    MAX_EXAMPLES,
    MAX_ITEMS,
    AttentionKind,
    Crowd,
    Item,
    attention_kinds,
    digest,
)

__all__ = ["MAX_EXAMPLES", "MAX_ITEMS", "Item", "digest", "find_crowds", "find_items", "kinds"]


def kinds() -> dict[str, AttentionKind]:
    """Return the kinds of the organs that this reef has, by key."""
    return {
        key: kind
        for key, kind in attention_kinds.items()
        if not kind.organ or kind.organ in settings.ORGANS
    }


def find_items() -> Iterator[Item]:
    """Yield the items of all kinds but crowds, which may be thousands."""
    for kind in kinds().values():
        if kind.find:
            yield from kind.find()


def find_crowds(seen_until: dict[str, datetime]) -> dict[str, Crowd]:
    """Map kinds to their crowds. `seen_until` says up to which time a kind was dismissed."""
    return {
        key: kind.find_crowd(seen_until.get(key))
        for key, kind in kinds().items()
        if kind.find_crowd
    }
