"""View models of the pages: each key with its sources side by side. Secrets are masked here."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from django.db.models import Q

from reef_site.common.text import is_storable
from versconfig import checks, config, keys, values
from versconfig.keys import Group, Key
from versconfig.models import Scope, Setting
from versconfig.resolve import Layer, Resolved, Source
from versconfig.scopes import FLEET, Target
from versconfig.serializers import collect_problems
from vmtree.models import Category, Node

MAX_MATCHES = 20
MAX_EMPTY_SUBTREES = 8
COLUMNS = ((Source.ENV, "Environment"), (Source.STORE, "Store"), (Source.FILE, "File"))


@dataclass(frozen=True)
class Cell:
    """One source of a key: its first layer that has a value."""

    label: str
    value: str = ""
    where: str = ""
    problem: str = ""
    effective: bool = False
    # Number of further layers of the same source.
    more: int = 0


@dataclass(frozen=True)
class Row:
    """One key for a node or the fleet."""

    key: Key
    cells: list[Cell]
    found: Resolved

    @property
    def value(self) -> str:
        """Return the effective value, masked if secret."""
        return values.shown(self.key, self.found.value) or ""

    @property
    def is_overridden(self) -> bool:
        """Return whether a stored value is overridden by another source."""
        return not self.found.effective and not self.found.problem

    @property
    def can_be_tested(self) -> bool:
        """Return whether it has a value and a test."""
        return self.key.name in checks.key_checks and self.found.value is not None


@dataclass(frozen=True)
class Step:
    """One layer of a key's chain."""

    layer: Layer
    value: str
    # The scope that an operator may change here; None outside the store.
    target: Target | None

    @property
    def place(self) -> str:
        """Return the place without the prefix for the store."""
        return self.layer.where.removeprefix("store, ")


@dataclass(frozen=True)
class Choice:
    """A scope that a form offers."""

    value: str
    label: str


def groups(node: Node | None) -> tuple[list[tuple[Group, list[Row]]], list[str]]:
    """Return all keys by group, and problems with files and stored values."""
    found = config.resolve_all(list(keys.ALL), node)
    rows = {name: _row(keys.get(name), each) for name, each in found.items()}
    by_group = [(group, [rows[key.name] for key in keys.keys_of_group(group)]) for group in Group]
    return by_group, collect_problems(found)


def chain(key: Key, node: Node | None) -> tuple[Resolved, list[Step], int]:
    """Return the resolved key, its layers in order, and how many empty subtrees are omitted."""
    found = config.explain(key.name, node)
    layers, left_out = _without_distant_empty(found.layers)
    ids = {layer.vm_id for layer in layers if layer.vm_id}
    nodes = {each.vm_id: each for each in Node.objects.filter(vm_id__in=ids)}
    steps = [
        Step(layer, values.shown(key, layer.value) or "", _target(layer, nodes)) for layer in layers
    ]
    return found, steps, left_out


def _without_distant_empty(layers: Iterable[Layer]) -> tuple[list[Layer], int]:
    """Omit empty subtrees far above: of a deep tree only the nearest are of interest."""
    shown: list[Layer] = []
    empty = 0
    for layer in layers:
        is_empty = layer.scope == Scope.SUBTREE and not layer.has_value
        empty += is_empty
        if not is_empty or empty <= MAX_EMPTY_SUBTREES:
            shown.append(layer)
    return shown, max(0, empty - MAX_EMPTY_SUBTREES)


def choices(key: Key, node: Node | None) -> list[Choice]:
    """Return the scopes that a value can be stored for, nearest first."""
    fleet = Choice(Scope.FLEET, "the whole fleet")
    if node is None or not key.scoped:
        return [fleet]
    name = node.name or node.vm_id
    below = Choice(Scope.SUBTREE, f"{name} and all below it")
    if node.category == Category.LIEUTENANT:
        return [Choice(Scope.LIEUTENANT, f"the lieutenant {name} alone"), below, fleet]
    return [Choice(Scope.VM, f"{name} alone"), below, fleet]


def matches(query: str) -> list[Node]:
    """Return active nodes that a text may mean: the one with this id, else partial matches."""
    if not is_storable(query):
        return []
    living = Node.objects.active()
    if exact := living.filter(vm_id=query).first():
        return [exact]
    fitting = living.filter(Q(name__icontains=query) | Q(vm_id__icontains=query))
    return list(fitting[: MAX_MATCHES + 1])


def stored_settings(key: Key) -> list[Setting]:
    """Return all settings of a key, the fleet's first."""
    rows = Setting.objects.filter(key=key.name).select_related("node")
    return sorted(rows, key=lambda row: (row.node is not None, row.target))


def _row(key: Key, found: Resolved) -> Row:
    cells = [_cell(label, _of(found.layers, source), key) for source, label in COLUMNS]
    # Defaults are never secret.
    cells.append(_cell("Default", _of(found.layers, Source.DEFAULT), key))
    return Row(key, cells, found)


def _cell(label: str, layers: list[Layer], key: Key) -> Cell:
    if not layers:
        return Cell(label)
    first = layers[0]
    return Cell(
        label,
        values.shown(key, first.value) or "",
        first.where.removeprefix("store, ") if first.source in (Source.STORE, Source.FILE) else "",
        first.problem,
        first.is_effective,
        len(layers) - 1,
    )


def _of(layers: Iterable[Layer], source: Source) -> list[Layer]:
    return [layer for layer in layers if layer.source is source and (layer.value or layer.problem)]


def _target(layer: Layer, nodes: dict[str, Node]) -> Target | None:
    if layer.source is not Source.STORE:
        return None
    return Target(Scope(layer.scope), nodes[layer.vm_id]) if layer.vm_id else FLEET
