"""A VM's DNA: its organs (service modules) and capabilities (extensions), two lists of text."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from reef_site.common.errors import BadInput
from reef_site.common.text import is_storable

KEYS = ("organs", "capabilities")
MAX_NAMES = 200
MAX_NAME_LENGTH = 200

Dna = dict[str, list[str]]


def empty() -> Dna:
    """Return the DNA of a VM that declares nothing."""
    return {key: [] for key in KEYS}


def parse_dna(value: object, field: str = "reefConfig") -> Dna:
    """Return the value with both lists; a missing list is empty. Raises BadInput."""
    if not isinstance(value, dict):
        raise BadInput(f"{field}: must be an object with organs and capabilities", field)
    if unknown := [str(key) for key in value if key not in KEYS]:
        raise BadInput(f"{field}: has no {unknown[0]!r}, only {' and '.join(KEYS)}", field)
    return {key: _names(value.get(key, []), f"{field}.{key}") for key in KEYS}


def diff(old: Dna | None, new: Dna | None) -> dict[str, Dna]:
    """Return what `new` adds to `old` and what it lacks, each in the order of its own list."""
    old, new = {**empty(), **(old or {})}, {**empty(), **(new or {})}
    return {
        "added": {key: _without(new[key], old[key]) for key in KEYS},
        "removed": {key: _without(old[key], new[key]) for key in KEYS},
    }


def _names(value: Any, field: str) -> list[str]:
    if not isinstance(value, list) or not all(is_storable(name) for name in value):
        raise BadInput(f"{field}: must be a list of text", field)
    if len(value) > MAX_NAMES or any(len(name) > MAX_NAME_LENGTH for name in value):
        raise BadInput(
            f"{field}: at most {MAX_NAMES} names of {MAX_NAME_LENGTH} characters each", field
        )
    return value


def _without(names: Iterable[str], others: Iterable[str]) -> list[str]:
    left_out = set(others)
    return [name for name in names if name not in left_out]
