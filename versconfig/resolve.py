"""Pure: the places where a value may stand, in order, and which of them wins.

Environment, then the store (nearest scope first), then files, then the default. The first that
has a value is in effect and shadows all behind it. An empty text is no value.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from enum import StrEnum


class Source(StrEnum):
    """Kinds of places, in the order in which they are asked."""

    ENV = "env"
    STORE = "store"
    FILE = "file"
    DEFAULT = "default"
    UNSET = "unset"


@dataclass(frozen=True)
class Layer:
    """One place that was asked. `where` names it for people.

    `problem` says what is wrong there: a value that cannot be, or none that can be read. It blocks
    those behind it, so that what somebody set is never passed over; a broken file counts as empty.
    """

    source: Source
    where: str
    value: str | None = field(default=None, repr=False)
    scope: str = ""
    vm_id: str = ""
    problem: str = ""
    effective: bool = False
    shadowed_by: str = ""
    # Why a stored value does not count here; empty if it does.
    skipped: str = ""
    # Of a stored value, the id of its version.
    version: int = 0

    @property
    def speaks(self) -> bool:
        """Whether something stands there that counts."""
        if self.skipped:
            return False
        return bool(self.value) or (bool(self.problem) and self.source is not Source.FILE)

    @property
    def holds(self) -> bool:
        """Whether it is in effect and can be used."""
        return self.effective and not self.problem


@dataclass(frozen=True)
class Resolved:
    """The answer to "what holds here?", with everything that was asked for it.

    `effective` is False if something is stored for here and yet another source holds, or if what
    stands first cannot be used. `problems` are such of files and stored values, in words.
    """

    key: str
    layers: tuple[Layer, ...]
    problems: tuple[str, ...] = ()

    @property
    def winner(self) -> Layer | None:
        """The layer in effect; None if the key is unset."""
        return next((layer for layer in self.layers if layer.effective), None)

    @property
    def value(self) -> str | None:
        """The clear text; None if unset or unreadable."""
        return (self.winner.value or None) if self.winner else None

    @property
    def source(self) -> Source:
        """Where the value comes from."""
        return self.winner.source if self.winner else Source.UNSET

    @property
    def scope(self) -> str:
        """Of a stored value, the kind of scope: fleet, subtree, vm or lieutenant."""
        return self.winner.scope if self.winner else ""

    @property
    def vm_id(self) -> str:
        """Of a stored value, the node that it was stored for; empty for the fleet."""
        return self.winner.vm_id if self.winner else ""

    @property
    def where(self) -> str:
        """The place in words, such as "the environment" or "store, subtree of web-1"."""
        return self.winner.where if self.winner else "nowhere"

    @property
    def problem(self) -> str:
        """Why the place in effect cannot be used; empty if it can."""
        return self.winner.problem if self.winner else ""

    @property
    def effective(self) -> bool:
        """False where a stored value is shadowed by the environment, or nothing can be used."""
        if self.problem:
            return False
        stored = any(layer.source is Source.STORE and layer.speaks for layer in self.layers)
        return not stored or self.source is Source.STORE


def resolve(key: str, layers: Iterable[Layer], problems: Iterable[str] = ()) -> Resolved:
    """Ask the layers, which come in order."""
    return Resolved(key, tuple(_ranked(layers)), tuple(problems))


def _ranked(layers: Iterable[Layer]) -> Iterator[Layer]:
    winner: Layer | None = None
    for layer in layers:
        if not layer.speaks:
            yield layer
        elif winner is None:
            winner = layer
            yield replace(layer, effective=True)
        else:
            yield replace(layer, shadowed_by=winner.where)
