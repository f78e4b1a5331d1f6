"""Answers of relays: their errors and texts."""

from __future__ import annotations

from typing import Any

from lieutenants import exceptions
from lieutenants.exceptions import TransportError
from reef_site.common.text import clip, to_storable

_MAX_TEXT = 500
# Of the column; no honest machine comes near it.
_MAX_GENERATION = 1 << 30


class ProgramMissing(TransportError):
    """The machine does not have this version's programs."""


def error_of(answer: dict[str, Any]) -> TransportError:
    """Return the error that a relay has reported."""
    text = text_of(answer.get("error") or "the relay refused")
    if answer.get("kind") == "ProgramMissing":
        return ProgramMissing(text)
    if answer.get("kind") == "Overtaken":
        seen = answer.get("generation")
        if isinstance(seen, int) and 0 <= seen <= _MAX_GENERATION:
            return exceptions.Overtaken(text, seen)
        return TransportError(text)
    kind = getattr(exceptions, str(answer.get("kind")), TransportError)
    is_known = isinstance(kind, type) and issubclass(kind, TransportError)
    return kind(text) if is_known else TransportError(text)


def text_of(value: object) -> str:
    """Return a text that a machine has sent in a form that can be stored and shown."""
    return clip(to_storable(str(value)), _MAX_TEXT)
