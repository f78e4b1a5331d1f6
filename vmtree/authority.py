"""The one rule of who may do what, asked at every door.

A node's token reads the fleet, writes about its node and what is below it, and commands what is
below it. The root token and operators may do all. Callers are whoever authentication found: those
with an attribute `node` that is not None are nodes; accounts that are no superusers look on.
"""

from __future__ import annotations

from typing import Literal

from vmtree.exceptions import Forbidden
from vmtree.lineage import is_within
from vmtree.models import LINKS, Node

Verb = Literal["read", "write", "command"]

RULE = "a node reads the fleet, writes about itself and its descendants, commands its descendants"
ACCOUNTS = "an account reads the fleet; only operators, which are superusers, change it"


def node_of(caller: object) -> Node | None:
    """The node whose token was shown; None for the root token and operators."""
    node = getattr(caller, "node", None)
    return node if isinstance(node, Node) else None


def check(caller: object, verb: Verb, target: Node | str | None) -> None:
    """Raise Forbidden unless the caller may do this to the target.

    A target is a node, or the id of a VM that may or may not have a node; None is the whole
    fleet, or a place that is below nobody.
    """
    mine = node_of(caller)
    if verb != "read" and only_looks_on(caller):
        raise Forbidden(f"rule: {ACCOUNTS}. {caller} may not {verb} {_name_of(target)}")
    if mine is not None and not allows(mine, verb, target):
        raise Forbidden(f"rule: {RULE}. {mine.vm_id} may not {verb} {_name_of(target)}")


def may(caller: object, verb: Verb, target: Node | str | None) -> bool:
    """The same as an answer."""
    mine = node_of(caller)
    if verb != "read" and only_looks_on(caller):
        return False
    return mine is None or allows(mine, verb, target)


def allows(mine: Node, verb: Verb, target: Node | str | None) -> bool:
    """Whether the rule lets this node do that to the target."""
    if verb == "read":
        return True
    if isinstance(target, str):
        target = Node.objects.filter(vm_id=target).first()
    if target is None:
        return False
    if target.pk == mine.pk:
        return verb == "write"
    return is_within(LINKS, target.pk, mine.pk)


def only_looks_on(caller: object) -> bool:
    """Whether this is an account that is no superuser."""
    return getattr(caller, "is_superuser", True) is False


def _name_of(target: Node | str | None) -> str:
    if target is None:
        return "the whole fleet"
    return target.vm_id if isinstance(target, Node) else target
