"""Chosen VMs of the tree, with what is above and below them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.db import connection

from reef_site.common.batches import batched
from vmtree.models import LINKS, Node
from vmtree.queries import recursion


class Subtrees:
    """Chosen VMs with their ancestors and descendants, read by four queries for each batch."""

    def __init__(self, vm_ids: Sequence[str]) -> None:
        rows = _active_nodes(vm_ids)
        self._keys = {vm_id: key for key, vm_id, _ in rows}
        self._names = {vm_id: name for _, vm_id, name in rows}
        self._chosen = {key: vm_id for key, vm_id, _ in rows}
        self._parents = dict(_pairs(recursion.above, list(self._chosen)))
        tops = [key for key, vm_id in self._chosen.items() if not self.chosen_above(vm_id)]
        self._children: dict[int, list[int]] = {}
        for key, parent in _pairs(recursion.below, tops):
            self._children.setdefault(parent, []).append(key)
        self._tops = set(tops)
        keys = [key for top in tops for key in self._line(top)]
        self._ids = _vm_ids_of(keys)

    def is_known(self, vm_id: str) -> bool:
        """Return whether the VM has a place in the tree."""
        return vm_id in self._keys

    def is_topmost(self, vm_id: str) -> bool:
        """Return whether the VM is in the tree, and not below another chosen one."""
        return self._keys.get(vm_id) in self._tops

    def name_of(self, vm_id: str) -> str:
        """Return the name of a chosen VM; empty if it has none."""
        return self._names.get(vm_id, "")

    def chosen_above(self, vm_id: str) -> str:
        """Return the nearest chosen ancestor; empty if there is none."""
        seen = set()
        key = self._parents.get(self._keys.get(vm_id, 0))
        while key is not None and key not in seen:
            if key in self._chosen:
                return self._chosen[key]
            seen.add(key)
            key = self._parents.get(key)
        return ""

    def below(self, vm_id: str) -> list[str]:
        """Return the VM and its descendants, parents first. The VM must be a topmost one."""
        return [self._ids[key] for key in self._line(self._keys[vm_id]) if key in self._ids]

    def _line(self, top: int) -> list[int]:
        found, seen = [top], {top}
        for key in found:
            fresh = [each for each in self._children.get(key, ()) if each not in seen]
            found += fresh
            seen.update(fresh)
        return found


def _active_nodes(vm_ids: Sequence[str]) -> list[tuple[int, str, str]]:
    rows: list[tuple[int, str, str]] = []
    for some in batched(vm_ids):
        found = Node.objects.active().filter(vm_id__in=some)
        rows += found.values_list("pk", "vm_id", "name")
    return rows


def _vm_ids_of(keys: Sequence[int]) -> dict[int, str]:
    rows: dict[int, str] = {}
    for some in batched(keys):
        rows |= dict(Node.objects.active().filter(pk__in=some).values_list("pk", "vm_id"))
    return rows


def _pairs(walk: Any, keys: Sequence[int]) -> list[tuple[int, int]]:
    """Return the keys that a recursion from these keys finds, each with its parent's key."""
    pairs: list[tuple[int, int]] = []
    for some in batched(keys):
        start = f"{LINKS.key} IN ({', '.join(['%s'] * len(some))})"
        with connection.cursor() as cursor:
            cursor.execute(f"{walk(LINKS, start=start)} SELECT key, parent FROM line", some)
            pairs += cursor.fetchall()
    return pairs
