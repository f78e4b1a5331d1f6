"""Effective configuration: `resolve` and its typed readers. They read anew each time and never log
values.

A reader returns the key's empty value ("", 0, False, [], {}) if it is unset, and raises `BadValue`
or `Unreadable`, which name the key and the place, if the value is invalid.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple, TypeVar

from django.conf import settings

from versconfig import files, keys, scopes, values
from versconfig.exceptions import BadValue, Unreadable, Unset
from versconfig.files import Files
from versconfig.keys import Key
from versconfig.models import Scope, Setting
from versconfig.resolve import Layer, Resolved, Source
from versconfig.resolve import resolve as _rank
from vmtree import permissions
from vmtree.models import Node

T = TypeVar("T")
NOT_INHERITED = "stored by {}, which is no local agent of the same host; local agents do not use it"


def resolve(key: str, node: Node | None = None) -> Resolved:
    """Return the key's value for this node, or for the fleet, and its source. Raises BadInput."""
    return resolve_all([key], node)[key]


def resolve_all(names: Sequence[str], node: Node | None = None) -> dict[str, Resolved]:
    """Resolve many keys with the same number of statements as one."""
    return _resolve_all(names, node, whole=False)


def explain(key: str, node: Node | None = None) -> Resolved:
    """Resolve the key and list every scope and layer, also empty ones."""
    return _resolve_all([key], node, whole=True)[key]


def inherited(key: Key, target: scopes.Target) -> Resolved:
    """Return what applies to a scope's nodes if the scope itself has no value."""
    path = scopes.path_to(target.node)
    nearest = scopes.chain(target.node, path)
    places = nearest[nearest.index(target) + 1 :]
    farther = {(each.scope, each.node.pk if each.node else None) for each in places}
    stored = _stored([key.name], target.node, path)[key.name]
    stored = [each for each in stored if (each.row.scope, each.row.node_id) in farther]
    found = files.read() if key.places else Files({}, {})
    return _rank(key.name, _layers(key, stored, places, found), _problems(key, found))


# -- typed readers -------------------------------------------------------------------------------


def text(key: str, node: Node | None = None) -> str:
    """Return the text; empty if unset."""
    return _read(key, node, str, "")


def secret(key: str, node: Node | None = None) -> str:
    """Return a secret in clear text; empty if unset.

    Never put it into logs, error texts or arguments.
    """
    return _read(key, node, str, "")


def required(key: str, node: Node | None = None) -> str:
    """Return the text (or secret). Raises Unset with the remedy if it is missing."""
    found = text(key, node)
    if not found:
        raise Unset(f"{key} is not set: set it on the page Config, or in the environment")
    return found


def integer(key: str, node: Node | None = None) -> int:
    """Return the number; 0 if unset."""
    known = keys.get(key)
    return _read(key, node, lambda given: values.integer(known, given), 0)


def boolean(key: str, node: Node | None = None) -> bool:
    """Return the boolean; False if unset."""
    return _read(key, node, values.boolean, False)


def names(key: str, node: Node | None = None) -> list[str]:
    """Return the words between commas or blanks."""
    known = keys.get(key)
    return _read(key, node, lambda given: values.names(known, given), [])


def pairs(key: str, node: Node | None = None) -> dict[str, str]:
    """Parse `a=b, c=d`."""
    return _read(key, node, values.pairs, {})


def lines(key: str, node: Node | None = None) -> list[str]:
    """Return the lines without empty ones and comments."""
    known = keys.get(key)
    return _read(key, node, lambda given: values.lines(known, given), [])


def usable(found: Resolved) -> str:
    """Return the text in effect; empty if unset. Raises BadValue, Unreadable."""
    if found.problem:
        kind = Unreadable if found.value is None else BadValue
        raise kind(f"{found.key} ({found.where}): {found.problem}")
    return found.value or ""


def _read(name: str, node: Node | None, convert: Callable[[str], T], empty: T) -> T:
    found = resolve(name, node)
    value = usable(found)
    if not value:
        return empty
    try:
        return convert(value)
    except ValueError as error:
        raise BadValue(f"{name} ({found.where}): {error}") from None


# -- layers --------------------------------------------------------------------------------------


def _resolve_all(names: Sequence[str], node: Node | None, *, whole: bool) -> dict[str, Resolved]:
    known = [keys.get(name) for name in names]
    path = scopes.path_to(node)
    found = files.read() if any(key.places for key in known) else Files({}, {})
    places = scopes.chain(node, path) if whole else []
    stored = _stored(names, node, path)
    return {
        key.name: _rank(
            key.name, _layers(key, stored[key.name], places, found), _problems(key, found)
        )
        for key in known
    }


class _Stored(NamedTuple):
    """A setting with its text, its problem, and why it is skipped."""

    row: Setting
    text: str | None
    problem: str = ""
    skipped: str = ""


def _stored(names: Sequence[str], node: Node | None, path: list[int]) -> dict[str, list[_Stored]]:
    """Return the settings of each key that reach the node."""
    rows = scopes.stored_above(names, node, path)
    opened = [_read_setting(row) for row in rows]
    if any(each.problem for each in opened):
        # A key rotation may have happened between reading row and keys.
        opened = [_read_setting(row) for row in scopes.stored_above(names, node, path)]
    by_key: dict[str, list[_Stored]] = {name: [] for name in names}
    for each in _without_foreign(opened, node):
        by_key[each.row.key].append(each)
    return by_key


def _read_setting(row: Setting) -> _Stored:
    try:
        return _Stored(row, row.text())
    except Unreadable:
        return _Stored(row, None, "what is stored cannot be decrypted with the keys at hand")


def _without_foreign(stored: list[_Stored], node: Node | None) -> list[_Stored]:
    """Mark settings that a local agent must not use.

    Otherwise a VM could use them to direct a process on reef's host.
    """
    by_nodes = {each.row.stored_by_id: each.row.stored_by for each in stored if each.row.stored_by}
    if not by_nodes or node is None or not (host := permissions.host_of(node.vm_id)):
        return stored
    foreign = {
        pk: NOT_INHERITED.format(by)
        for pk, by in by_nodes.items()
        if by and permissions.host_of(by.vm_id) != host
    }
    return [each._replace(skipped=foreign.get(each.row.stored_by_id, "")) for each in stored]


def _layers(
    key: Key,
    stored: list[_Stored],
    places: list[scopes.Target],
    found: Files,
) -> Iterator[Layer]:
    yield environment(key)
    yield from _store_layers(key, stored, places)
    for place, value, problem in found.layers(key):
        problem = problem or found.problems.get(place.file, "") or _value_problem(key, value)
        yield Layer(Source.FILE, str(place), value, problem=problem)
    yield Layer(Source.DEFAULT, "default", default_of(key) or None)


def environment(key: Key) -> Layer:
    """Return the layer of reef's own environment."""
    if key.name == "VERS_API_KEY" and settings.NO_VMS:
        return Layer(Source.ENV, "the demo", problem=settings.NO_VMS)
    value = os.environ.get(key.name, "").strip() or None
    return Layer(Source.ENV, "the environment", value, problem=_value_problem(key, value))


def problems_of_environment() -> list[str]:
    """Return a sentence for each key whose value in the environment is invalid."""
    found = [(key.name, environment(key)) for key in keys.ALL.values()]
    return [f"{name}: {layer.problem}" for name, layer in found if layer.value and layer.problem]


def _value_problem(key: Key, value: str | None) -> str:
    return values.problem(key, value) if value else ""


def _store_layers(key: Key, stored: list[_Stored], places: list[scopes.Target]) -> Iterator[Layer]:
    """Yield a layer for each stored value, or for each scope that could have one."""
    by_place = {(each.row.scope, each.row.node_id): each for each in stored}
    targets = places or [scopes.Target(_scope(each.row), each.row.node) for each in stored]
    for target in targets:
        pk, vm_id = (target.node.pk, target.node.vm_id) if target.node else (None, "")
        layer = Layer(Source.STORE, f"store, {target}", None, target.scope.value, vm_id)
        if found := by_place.get((target.scope, pk)):
            layer = replace(
                layer,
                value=found.text,
                problem=found.problem or _value_problem(key, found.text),
                skipped=found.skipped,
                version=found.row.version_id,
            )
        yield layer


def _scope(row: Setting) -> Scope:
    return Scope(row.scope)


def default_of(key: Key) -> str:
    """Return the default value."""
    return str(getattr(settings, key.setting)) if key.setting else key.default


def _problems(key: Key, found: Files) -> list[str]:
    """Return what is wrong with the files that could hold this key."""
    wanted = {place.file for place in key.places}
    broken = [problem for name, problem in found.problems.items() if name in wanted]
    return [*broken, *(problem for _, _, problem in found.layers(key) if problem)]
