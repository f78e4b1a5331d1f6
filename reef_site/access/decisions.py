"""The decisions of `vmtree.permissions` and of grants, with the rule that decides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from django.conf import settings

from bootloader.grants import services as grants
from bootloader.join.api import ONLY_JOIN
from vmtree import permissions
from vmtree.models import Node
from vmtree.permissions import DIRECTS_PROCESS, Action, CallerKind, Relation

WHO = {
    CallerKind.ROOT: "the root token",
    CallerKind.OPERATOR: "an operator",
    CallerKind.ACCOUNT: "an account that is not an operator",
    CallerKind.LOCAL_AGENT: "a lieutenant that runs on a host of reef",
    CallerKind.VM: "a VM",
    CallerKind.TOKEN_READ: "an operator token for reading",
    CallerKind.TOKEN_MESSAGES: "an operator token for messages",
    CallerKind.TOKEN_EVERYTHING: "an operator token for everything",
    CallerKind.STRANGER: "a join token",
}
WORDS = {
    Relation.SELF: "itself",
    Relation.DESCENDANT: "its descendants",
    Relation.ANCESTOR: "its ancestors",
    Relation.OTHER: "other nodes",
    Relation.FLEET: "the whole fleet",
}
SAME_HOST = "; agents on a host of reef only if it runs on the same host"
IN_SUBTREE = "; the relations are those to the node of the token's subtree"
NODE_KINDS = (CallerKind.LOCAL_AGENT, CallerKind.VM)


@dataclass(frozen=True)
class Decision:
    """The answer to one question; `relation` is None for callers without a node."""

    action: Action
    target: str | None
    allowed: bool
    rule: str
    relation: Relation | None


@dataclass(frozen=True)
class Right:
    """One row of the table: what a caller may do to which relations, and the rule."""

    action: Action
    relations: frozenset[Relation]
    rule: str

    @property
    def cells(self) -> list[tuple[Relation, bool]]:
        """Return whether it is allowed for each relation."""
        return [(each, each in self.relations) for each in Relation]


def decide(caller: object, action: Action, target: str | None) -> Decision:
    """Decide as the entrances do. `target` is the id of a VM; None is the whole fleet."""
    node = Node.objects.filter(vm_id=target).first() if target else None
    subject = node or target
    home = permissions.home_of(caller)
    relation = permissions.relation_of(home, subject) if home else None
    rule = permissions.broken_rule(caller, action, subject)
    if rule and permissions.kind_of(caller) is CallerKind.STRANGER:
        rule = ONLY_JOIN
    if not rule and node and home:
        rule = grants.refusal_of(home, action, node)
    if rule:
        return Decision(action, target, allowed=False, rule=rule, relation=relation)
    rule = _right(caller, action).rule
    return Decision(action, target, allowed=True, rule=rule, relation=relation)


def rights_of(caller: object) -> list[Right]:
    """Return the caller's row of the table for each action."""
    return [_right(caller, action) for action in Action]


def kind_slug(kind: CallerKind) -> str:
    """Return the name of a kind of caller in JSON, such as `local-agent`."""
    return kind.name.lower().replace("_", "-")


def _right(caller: object, action: Action) -> Right:
    kind = permissions.kind_of(caller)
    relations, home = permissions.reach_of(caller, action), permissions.home_of(caller)
    if action is Action.START_BELOW and kind is CallerKind.LOCAL_AGENT and not _runs_here(home):
        relations = frozenset()
    if not relations:
        subject = home if kind in NODE_KINDS else None
        rule = permissions.broken_rule(caller, action, subject)
        return Right(action, relations, ONLY_JOIN if kind is CallerKind.STRANGER else rule)
    return Right(action, relations, _rule(kind, action, relations, has_home=home is not None))


def _rule(
    kind: CallerKind, action: Action, relations: frozenset[Relation], *, has_home: bool
) -> str:
    """Return the rule that allows an action."""
    text = f"{WHO[kind]} may {action} {_words(relations)}"
    if kind in NODE_KINDS:
        return text + (SAME_HOST if action in DIRECTS_PROCESS else "")
    return text + (IN_SUBTREE if has_home else "")


def _words(relations: frozenset[Relation]) -> str:
    if relations == frozenset(Relation):
        return "any target"
    found: Sequence[str] = [WORDS[each] for each in Relation if each in relations]
    return " and ".join(found)


def _runs_here(node: Node | None) -> bool:
    return node is not None and permissions.host_of(node.vm_id) == settings.DATA_FOLDER_ID
