"""Pure resolution of a key: the layers in order, and which of them wins.

Environment, then the store (nearest scope first), then files, then the default. The first layer
that has a value is effective and overrides all behind it. An empty text does not count as a value.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from enum import StrEnum


class Source(StrEnum):
    """Kinds of layers, in their order."""

    ENV = "env"
    STORE = "store"
    FILE = "file"
    DEFAULT = "default"
    UNSET = "unset"


@dataclass(frozen=True)
class Layer:
    """One place where a value may be. `where` names it for people.

    `problem` says what is wrong there: an invalid value, or one that cannot be read. It blocks the
    layers behind it, so that a value somebody set is never skipped; a broken file counts as empty.
    """

    source: Source
    where: str
    value: str | None = field(default=None, repr=False)
    scope: str = ""
    vm_id: str = ""
    problem: str = ""
    effective: bool = False
    overridden_by: str = ""
    # Why a stored value is ignored here; empty if it is not.
    skipped: str = ""
    # The id of a stored value's version.
    version: int = 0

    @property
    def has_value(self) -> bool:
        """Return whether it has a value (or a problem) that counts."""
        if self.skipped:
            return False
        return bool(self.value) or (bool(self.problem) and self.source is not Source.FILE)

    @property
    def is_effective(self) -> bool:
        """Return whether it is effective and usable."""
        return self.effective and not self.problem


@dataclass(frozen=True)
class Resolved:
    """A key's effective value, with all layers.

    `effective` is False if a value is stored but another source wins, or if the first value is
    unusable. `problems` are sentences about files and stored values.
    """

    key: str
    layers: tuple[Layer, ...]
    problems: tuple[str, ...] = ()

    @property
    def winner(self) -> Layer | None:
        """Return the effective layer; None if the key is unset."""
        return next((layer for layer in self.layers if layer.effective), None)

    @property
    def value(self) -> str | None:
        """Return the value in clear text; None if unset or unreadable."""
        return (self.winner.value or None) if self.winner else None

    @property
    def source(self) -> Source:
        """Return where the value comes from."""
        return self.winner.source if self.winner else Source.UNSET

    @property
    def scope(self) -> str:
        """Return the scope of a stored value: fleet, subtree, vm or lieutenant."""
        return self.winner.scope if self.winner else ""

    @property
    def vm_id(self) -> str:
        """Return the node that a stored value is for; empty for the fleet."""
        return self.winner.vm_id if self.winner else ""

    @property
    def where(self) -> str:
        """Return the place in words, such as "the environment" or "store, subtree of web-1"."""
        return self.winner.where if self.winner else "nowhere"

    @property
    def problem(self) -> str:
        """Return why the effective layer is unusable; empty if it is usable."""
        return self.winner.problem if self.winner else ""

    @property
    def effective(self) -> bool:
        """Return False if the environment overrides a stored value, or if the value is unusable."""
        if self.problem:
            return False
        stored = any(layer.source is Source.STORE and layer.has_value for layer in self.layers)
        return not stored or self.source is Source.STORE


def resolve(key: str, layers: Iterable[Layer], problems: Iterable[str] = ()) -> Resolved:
    """Rank the layers, which come in order."""
    return Resolved(key, tuple(_ranked(layers)), tuple(problems))


def _ranked(layers: Iterable[Layer]) -> Iterator[Layer]:
    winner: Layer | None = None
    for layer in layers:
        if not layer.has_value:
            yield layer
        elif winner is None:
            winner = layer
            yield replace(layer, effective=True)
        else:
            yield replace(layer, overridden_by=winner.where)
