"""Hooks: how a lower app calls code of the apps above it without importing them.

The module that calls declares the hook; apps above register in their `AppConfig.ready`:

    snapshot_tables: Hook[Table] = Hook("snapshots.tables", "Tables that a snapshot holds.")

    tables.snapshot_tables.register(VMS, key="vms")

`manage.py hooks` lists all hooks and what is registered.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from types import FrameType
from typing import Any, Generic, TypeVar

T = TypeVar("T")

_declared: dict[str, Hook[Any]] = {}


class HookError(Exception):
    """A hook or a key that was declared or registered twice, or a key that does not exist."""


@dataclass(frozen=True)
class Registration(Generic[T]):
    """One registered item, and the module that registered it."""

    key: str
    item: T
    registered_by: str


class Hook(Generic[T]):
    """Items of one type under unique keys, in the order in which they were registered."""

    def __init__(self, name: str, description: str) -> None:
        """Raise HookError if another hook has this name."""
        if name in _declared:
            raise HookError(f"the hook {name} is declared twice")
        self.name = name
        self.description = description
        self.declared_in = _calling_module()
        self._registrations: dict[str, Registration[T]] = {}
        _declared[name] = self

    def __repr__(self) -> str:
        return f"<Hook {self.name}: {', '.join(self._registrations) or 'empty'}>"

    def __iter__(self) -> Iterator[T]:
        return iter([each.item for each in self._registrations.values()])

    def __reversed__(self) -> Iterator[T]:
        return iter([each.item for each in reversed(self._registrations.values())])

    def __contains__(self, key: object) -> bool:
        return key in self._registrations

    def __getitem__(self, key: str) -> T:
        return self._registrations[key].item

    def get(self, key: str) -> T | None:
        """Return the item of this key; None without one."""
        found = self._registrations.get(key)
        return found.item if found else None

    def keys(self) -> list[str]:
        """Return all keys, in the order of registration."""
        return list(self._registrations)

    def items(self) -> list[tuple[str, T]]:
        """Return keys and items, in the order of registration."""
        return [(each.key, each.item) for each in self._registrations.values()]

    def registrations(self) -> list[Registration[T]]:
        """Return all items with the modules that registered them."""
        return list(self._registrations.values())

    def register(self, item: T, *, key: str = "", replace: bool = False) -> None:
        """Add an item; without a key, under the dotted name of the item.

        With `replace` it takes the place of the item that has the key, if there is one. Raise
        HookError if the key is taken otherwise.
        """
        key = key or _dotted_name(item)
        if key in self._registrations and not replace:
            raise HookError(f"the hook {self.name} has an item {key!r} already")
        self._registrations[key] = Registration(key, item, _calling_module())

    def unregister(self, key: str) -> None:
        """Remove the item of this key. Raise HookError if there is none."""
        if key not in self._registrations:
            raise HookError(f"the hook {self.name} has no item {key!r}")
        del self._registrations[key]

    @contextlib.contextmanager
    def changed(self, items: dict[str, T]) -> Iterator[None]:
        """Register or replace these items for the length of a `with` block, for tests."""
        before = dict(self._registrations)
        for key, item in items.items():
            self.register(item, key=key, replace=True)
        try:
            yield
        finally:
            self._registrations = before


def declared_hooks() -> list[Hook[Any]]:
    """Return all hooks of the modules that are imported, by name."""
    return [_declared[name] for name in sorted(_declared)]


def _dotted_name(item: object) -> str:
    """Return module and name of a function or class; of other objects, those of their class."""
    named = item if hasattr(item, "__qualname__") else type(item)
    return f"{named.__module__}.{named.__qualname__}"


def _calling_module() -> str:
    """Return the module that calls this one; `Hook[T](…)` passes through `typing`."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        name = str(frame.f_globals.get("__name__", ""))
        if name not in (__name__, "typing", "contextlib"):
            return name
        frame = frame.f_back
    return ""
