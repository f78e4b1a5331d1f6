"""Texts of `Lieutenant.trouble` that other parts of reef recognise."""

from __future__ import annotations

SUPERVISOR_SILENT = "Its supervisor does not answer since "
MACHINE_UNREACHABLE = "Its machine cannot be reached since "


def is_reachability_trouble(trouble: str) -> bool:
    """Return whether the text says that machine or supervisor are out of reach."""
    return trouble.startswith((SUPERVISOR_SILENT, MACHINE_UNREACHABLE))
