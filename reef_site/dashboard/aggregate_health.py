"""Aggregate health: the worst state among the descendants of nodes."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from reef_site.dashboard import queries
from reef_site.dashboard.states import RANKS, WORDS

# Key of the row above all roots.
ROOT = 0


def worst_descendant_states(keys: Sequence[int], at: datetime, *, grace: bool) -> dict[int, str]:
    """Map nodes to the worst state of their descendants, if any is paused or worse."""
    silent = RANKS["late"] if grace else RANKS["silent"]
    found = queries.worst_descendant_ranks(keys, at, silent_rank=silent)
    return {key: WORDS[rank] for key, rank in found.items()}
