"""Differences between two trees as text for pages."""

from __future__ import annotations

from dataclasses import dataclass

from vmtree import dna
from vmtree.snapshots.queries import Row
from vmtree.snapshots.table_diff import Difference
from vmtree.snapshots.tree_diff import Comparison, KeptVM, TreeVM

MAX_SHOWN = 200


@dataclass(frozen=True)
class DifferenceKind:
    """One kind of difference: the first VMs, each with a description, and the total count."""

    name: str
    rows: list[tuple[TreeVM, str]]
    count: int

    @property
    def more(self) -> int:
        """Return how many are not shown."""
        return self.count - len(self.rows)


def kinds(found: Comparison) -> list[DifferenceKind]:
    """Return all kinds, also empty ones."""
    some = slice(MAX_SHOWN)
    rows = [
        ("new", [(vm, _under(vm.parent)) for vm in found.added[some]]),
        ("removed", [(vm, _under(vm.parent)) for vm in found.removed[some]]),
        (
            "moved",
            [(b, f"{a.parent or 'roof'} → {b.parent or 'roof'}") for a, b in found.moved[some]],
        ),
        ("DNA changed", [(b, _dna_words(a.dna, b.dna)) for a, b in found.other_dna[some]]),
        ("renamed", [(b, _name_words(a, b)) for a, b in found.renamed[some]]),
        ("kept, still alive", [(each.new, _kept_words(each)) for each in found.kept[some]]),
        ("not restored, destroyed", [(each.vm, each.why) for each in found.omitted[some]]),
    ]
    counts = found.counts.values()
    return [
        DifferenceKind(name, shown, count)
        for (name, shown), count in zip(rows, counts, strict=True)
    ]


def kinds_beside(found: Comparison) -> list[DifferenceKind]:
    """Return all kinds of difference of the further tables."""
    return [kind for name, each in found.beside.items() for kind in _of_table(name, each)]


def _of_table(name: str, found: Difference) -> list[DifferenceKind]:
    some = slice(MAX_SHOWN)
    rows = [
        ("new", [(_named(row), "") for row in found.added[some]]),
        ("gone", [(_named(row), "") for row in found.removed[some]]),
        ("changed", [(_named(b), found.words(a, b)) for a, b in found.changed[some]]),
    ]
    counts = found.counts.values()
    pairs = zip(rows, counts, strict=True)
    return [DifferenceKind(f"{name}: {kind}", shown, count) for (kind, shown), count in pairs]


def _named(row: Row) -> TreeVM:
    return TreeVM(row[0], row[1], "", None, None)


def _kept_words(kept: KeptVM) -> str:
    moves = kept.old.parent != kept.new.parent
    place = f"{kept.old.parent or 'roof'} → {kept.new.parent or 'roof'}, " if moves else ""
    return f"{place}{kept.why}"


def _under(parent: str | None) -> str:
    return f"under {parent}" if parent else "at the roof"


def _name_words(old: TreeVM, new: TreeVM) -> str:
    return f"{old.name}, {old.category} → {new.name}, {new.category}"


def _dna_words(old: dna.Dna | None, new: dna.Dna | None) -> str:
    changed = dna.diff(old, new)
    added = [f"+{name}" for names in changed["added"].values() for name in names]
    removed = [f"−{name}" for names in changed["removed"].values() for name in names]
    return " ".join(added + removed) or "order changed"
