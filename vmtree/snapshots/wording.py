"""Differences between two trees as words, for pages."""

from __future__ import annotations

from dataclasses import dataclass

from vmtree import dna
from vmtree.snapshots.comparing import Comparison, Living

MOST_SHOWN = 200


@dataclass(frozen=True)
class Kind:
    """One kind of difference: the first VMs with it, each with words, and how many there are."""

    name: str
    rows: list[tuple[Living, str]]
    count: int

    @property
    def more(self) -> int:
        """How many are not shown."""
        return self.count - len(self.rows)


def kinds(found: Comparison) -> list[Kind]:
    """All kinds, also those without a difference."""
    some = slice(MOST_SHOWN)
    rows = [
        ("new", [(vm, _under(vm.parent)) for vm in found.added[some]]),
        ("removed", [(vm, _under(vm.parent)) for vm in found.removed[some]]),
        (
            "moved",
            [(b, f"{a.parent or 'roof'} → {b.parent or 'roof'}") for a, b in found.moved[some]],
        ),
        ("other DNA", [(b, _dna_words(a.dna, b.dna)) for a, b in found.other_dna[some]]),
        ("renamed", [(b, _name_words(a, b)) for a, b in found.renamed[some]]),
    ]
    counts = found.counts.values()
    return [Kind(name, shown, count) for (name, shown), count in zip(rows, counts, strict=True)]


def _under(parent: str | None) -> str:
    return f"under {parent}" if parent else "at the roof"


def _name_words(old: Living, new: Living) -> str:
    return f"{old.name}, {old.category} → {new.name}, {new.category}"


def _dna_words(old: dna.Dna | None, new: dna.Dna | None) -> str:
    changed = dna.diff(old, new)
    added = [f"+{name}" for names in changed["added"].values() for name in names]
    removed = [f"−{name}" for names in changed["removed"].values() for name in names]
    return " ".join(added + removed) or "in another order"
