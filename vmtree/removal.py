"""Who may not be asked out of the tree as it is, and what else goes with a subtree.

Apps above know it and say so when they are ready.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from reef_site.common.errors import Conflict

# Which of these VMs must stay.
Find = Callable[[Sequence[str]], Iterable[str]]
Follow = Callable[[Sequence[str]], None]
_MOST_NAMED = 5
_guards: dict[str, Find] = {}
_followers: list[Follow] = []


def refuse(why: str, find: Find) -> None:
    """Have these VMs stay until what `why` says is done; for `AppConfig.ready`."""
    _guards[why] = find


def also(follow: Follow) -> None:
    """Do this, too, when a subtree is removed, in its transaction; for `AppConfig.ready`."""
    _followers.append(follow)


def check(vm_ids: Sequence[str]) -> None:
    """Raise Conflict if one of them must stay."""
    for why, find in _guards.items():
        if staying := sorted(find(vm_ids)):
            names = ", ".join(f"'{vm_id}'" for vm_id in staying[:_MOST_NAMED])
            more = f" and {len(staying) - _MOST_NAMED} more" if staying[_MOST_NAMED:] else ""
            raise Conflict(f"VM {names}{more}: {why}")


def follow(vm_ids: Sequence[str]) -> None:
    """Tell those who follow; inside the caller's transaction."""
    for each in _followers:
        each(vm_ids)
