"""Entries of the palette (Ctrl+K). Each app registers a source of its own.

An action leads to a page that shows what it will do and asks, so an entry is always a link.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from django.contrib.auth.models import AbstractBaseUser, AnonymousUser

from reef_site.common.hooks import Hook

# How many entries of one source are shown.
MAX_ENTRIES = 8


@dataclass(frozen=True)
class Entry:
    """One line of the palette. `hint` is shown beside the label."""

    group: str
    label: str
    url: str
    hint: str = ""
    is_dangerous: bool = False


# Takes the person and the words that were typed (empty at first).
Source = Callable[[AbstractBaseUser | AnonymousUser, str], Iterable[Entry]]
palette_sources: Hook[Source] = Hook("palette.sources", "Sources of entries of the palette.")


def matches(words: str, *texts: str) -> bool:
    """Return whether each word occurs in one of the texts."""
    text = " ".join(texts).lower()
    return all(word in text for word in words.lower().split())
