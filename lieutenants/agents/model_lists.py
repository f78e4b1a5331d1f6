"""Lists of model names, as text."""

from __future__ import annotations

from collections.abc import Sequence

# Longer lists of an agent are truncated.
MAX_STORED = 5000
_MAX_SHOWN = 12


def summary(names: Sequence[str]) -> str:
    """Return the first model names as text."""
    shown = ", ".join(names[:_MAX_SHOWN])
    return f"{shown} and {len(names) - _MAX_SHOWN} more" if len(names) > _MAX_SHOWN else shown
