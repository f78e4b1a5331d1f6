"""Snapshots of the whole tree: take, verify, compare, restore, retain.

A snapshot is one SQLite file with plain tables (described in `tables.py`), readable by any
`sqlite3`. It holds the tree with its history and the registry as of one moment: no tokens and no
transcripts.
"""

from vmtree.snapshots.creation import find, listing, take, tick
from vmtree.snapshots.restoration import Restored, plan, restore
from vmtree.snapshots.retention import pin, prune
from vmtree.snapshots.tree_diff import Comparison, compare
from vmtree.snapshots.verification import ensure_intact, quick_check, verify

__all__ = [
    "Comparison",
    "Restored",
    "compare",
    "ensure_intact",
    "find",
    "listing",
    "pin",
    "plan",
    "prune",
    "quick_check",
    "restore",
    "take",
    "tick",
    "verify",
]
