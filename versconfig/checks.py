"""The test button: other parts of reef say how a key's value is tried out.

A check gets the node for which the key is resolved (None: the fleet), asks whoever knows, and
answers with a verdict. It may raise a FleetError when nobody can tell. Its texts hold no secrets;
if they did by accident, the value is cut out of them here.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from versconfig import config
from versconfig.exceptions import NoCheck
from vmtree.exceptions import FleetError
from vmtree.models import Node

logger = logging.getLogger(__name__)


class Verdict(Protocol):
    """What a check found."""

    @property
    def good(self) -> bool | None:
        """Whether the value does what it is for; None when nobody could tell."""

    @property
    def text(self) -> str:
        """The finding in a sentence."""


@dataclass(frozen=True)
class Finding:
    """A verdict. `good` is None when nobody could tell."""

    good: bool | None
    text: str


Check = Callable[[Node | None], Verdict]
_checks: dict[str, Check] = {}


def register(key: str, check: Check) -> None:
    """Have this try the key out; for `AppConfig.ready`. A later one takes its place."""
    _checks[key] = check


def known() -> frozenset[str]:
    """Names of the keys that can be tried out."""
    return frozenset(_checks)


def run(key: str, node: Node | None = None) -> Finding:
    """Try the key out as it is resolved for this node. Raises NoCheck, BadInput."""
    found = config.resolve(key, node)
    check = _checks.get(key)
    if check is None:
        raise NoCheck(f"{key} cannot be tried out")
    if found.problem:
        return Finding(False, f"{key} ({found.where}): {found.problem}")
    if found.value is None:
        return Finding(False, f"{key} is not set.")
    try:
        verdict = check(node)
    except FleetError as error:
        return Finding(None, _without(str(error), found.value))
    return Finding(verdict.good, _without(verdict.text, found.value))


def _without(text: str, value: str) -> str:
    """The text without this value; very short ones are no secrets and part of many words."""
    return text.replace(value, "[…]") if len(value) >= 6 else text
