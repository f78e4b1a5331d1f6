"""Tests of keys ("Test" button): other parts of reef register how a key's value is tested.

A check gets the node for which the key is resolved (None: the fleet) and returns a verdict. It may
raise a ReefError when the result cannot be determined. Its texts contain no secrets; the value is
removed from them here in any case.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from reef_site.common import outside
from reef_site.common.errors import ReefError
from reef_site.common.hooks import Hook
from reef_site.common.models import OutsideCall
from versconfig import config, scopes
from versconfig.exceptions import NoCheck
from vmtree.models import Node

logger = logging.getLogger(__name__)

KIND = "vers-config.test"


class Verdict(Protocol):
    """The result of a check."""

    @property
    def good(self) -> bool | None:
        """Return whether the value works; None when that could not be determined."""

    @property
    def text(self) -> str:
        """Return the result as a sentence."""


@dataclass(frozen=True)
class Finding:
    """A verdict. `good` is None when the result could not be determined."""

    good: bool | None
    text: str


Check = Callable[[Node | None], Verdict]
key_checks: Hook[Check] = Hook(
    "config.key_checks", "Try out the value of a config key; the hook's key is the name of the key."
)


def run(key: str, node: Node | None = None) -> Finding:
    """Test the key as resolved for this node. Raises NoCheck, BadInput.

    This may take long: use `start` in a request.
    """
    if (known_already := quick_finding(key, node)) is not None:
        return known_already
    value = config.resolve(key, node).value or ""
    try:
        verdict = key_checks[key](node)
    except ReefError as error:
        return Finding(None, _without_value(str(error), value))
    return Finding(verdict.good, _without_value(verdict.text, value))


def quick_finding(key: str, node: Node | None) -> Finding | None:
    """Return the finding if it needs no check, else None. Raises NoCheck, BadInput."""
    found = config.resolve(key, node)
    if key not in key_checks:
        raise NoCheck(f"{key} cannot be tried out")
    if found.problem:
        return Finding(False, f"{key} ({found.where}): {found.problem}")
    return Finding(False, f"{key} is not set.") if found.value is None else None


# -- in a worker, so that no request waits for a provider ------------------------------------------


def start(key: str, node: Node | None, *, by: object) -> OutsideCall:
    """Test the key in a worker, within ten seconds. Raises NoCheck, BadInput."""
    quick_finding(key, node)
    arguments = {"key": key, "vm_id": node.vm_id if node else ""}
    return outside.make(KIND, arguments, by=by)


def register_call() -> None:
    """Register the outside call; for `AppConfig.ready`."""
    outside.call_kinds.register(outside.Kind(_run_call, _lines), key=KIND)


def _run_call(key: str, vm_id: str) -> outside.Result:
    found = run(key, scopes.find(vm_id) if vm_id else None)
    return {"key": key, "good": found.good, "text": found.text}


def _lines(result: outside.Result) -> list[outside.Line]:
    return [(result["good"], f"{result['key']}: {result['text']}")]


def _without_value(text: str, value: str) -> str:
    """Remove the value from the text; very short values are not secret and part of many words."""
    return text.replace(value, "[…]") if len(value) >= 6 else text
