"""Lists of model names, as text."""

from __future__ import annotations

from collections.abc import Sequence

from lieutenants.agents.events import Model

# Longer lists of an agent are truncated.
MAX_STORED = 5000
_MAX_SHOWN = 12


def summary(names: Sequence[str]) -> str:
    """Return the first model names as text."""
    shown = ", ".join(names[:_MAX_SHOWN])
    return f"{shown} and {len(names) - _MAX_SHOWN} more" if len(names) > _MAX_SHOWN else shown


def image_names(models: Sequence[Model]) -> list[str] | None:
    """Return the models that take images; None if the agent did not tell that of each."""
    if any(each.takes_images is None for each in models):
        return None
    return [each.name for each in models if each.takes_images]
