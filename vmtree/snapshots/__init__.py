"""Snapshots of the whole tree: take, verify, compare, restore, retain.

A snapshot is one SQLite file with plain tables (described in `tables.py`), readable by any
`sqlite3`. It holds the tree with its history and the registry as of one moment: no tokens and no
transcripts.
"""

from vmtree.snapshots.checking import ensure_intact, quick_check, verify
from vmtree.snapshots.comparing import Comparison, compare
from vmtree.snapshots.keeping import pin, prune
from vmtree.snapshots.restoring import Restored, plan, restore
from vmtree.snapshots.taking import find, listing, take, tick

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
