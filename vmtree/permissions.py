"""Permissions of callers on nodes: one table, checked at every entry point.

A right is a set of relations: what a kind of caller may do depends on how the target is related to
it. `check` raises Forbidden with a text that names the rule, `may` returns a boolean, `readable`
narrows lists. A caller is what authentication found (see `reef_site.api.authentication`), or the
name of a part of reef.

Nodes are of two kinds. A *local agent* is a lieutenant whose process runs on a host of reef; its
token starts further processes on that host for lieutenants below itself. Every other node is a VM
or a machine somewhere else: its token never starts or directs a process on a host of reef.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import StrEnum

from django.conf import settings
from django.db.models import QuerySet

from reef_site.common.errors import Forbidden
from reef_site.common.hooks import Hook
from vmtree.lineage import is_within
from vmtree.models import LINKS, Node, OperatorToken
from vmtree.queries import recursion


class Action(StrEnum):
    """A checked action; its value completes the sentence "… may not"."""

    # Registry, tree, and the public facts of lieutenants: name, role, status.
    READ = "read"
    # Messages, answers, usage and streams, too.
    READ_TRANSCRIPT = "read the transcript of"
    # Secrets masked.
    READ_CONFIG = "read the config of"
    # Machines of providers, findings, boot reports and logs.
    READ_MACHINES = "read machines and logs of"
    # A snapshot holds the whole fleet, so its target is always the whole fleet.
    READ_SNAPSHOTS = "read snapshots of"
    # Stored values in clear text.
    READ_SECRETS = "read secrets of"
    WRITE = "write"
    # Pause, abort, change limits, move, remove; of the whole fleet: administer it.
    COMMAND = "command"
    SEND = "send messages to"
    # Messages to relatives in the tree that say from whom they are.
    SIGNAL = "signal"
    # Decide what its agent asks a person.
    ANSWER = "answer questions of"
    DESTROY = "destroy"
    ISSUE_TOKENS = "issue tokens for"
    # Resume or restart the process of a lieutenant that there is.
    START = "start the process of"
    # Create a lieutenant, whose agent gets keys of this host; the target is its parent node.
    START_BELOW = "start a process on this host below"
    # Provision VMs below the target, within a grant (see `bootloader.grants.services`).
    PROVISION = "have VMs made below"
    MANAGE_RULES = "manage the rules of"
    # Limits on what a node may create (see `bootloader.grants.services`).
    GRANT = "set grants of"
    # A shell command on a VM or SSH host; its output is kept. Nodes never have this right.
    RUN_COMMANDS = "run commands on"
    # Operator tokens. Only a person who has signed in has this right.
    MAKE_TOKENS = "make or revoke operator tokens of"

    @property
    def slug(self) -> str:
        """The action's name in URLs and JSON, such as `read-transcript`."""
        return self.name.lower().replace("_", "-")


class Relation(StrEnum):
    """The relation of a target to the calling node."""

    SELF = "self"
    ANCESTOR = "ancestor"
    DESCENDANT = "descendant"
    OTHER = "other"
    # Not a node: the whole fleet, or a place without a parent.
    FLEET = "fleet"


class CallerKind(StrEnum):
    # The root token, and parts of reef.
    ROOT = "root token"
    OPERATOR = "operator"
    # An account that is not a superuser.
    ACCOUNT = "read-only account"
    LOCAL_AGENT = "local agent"
    VM = "VM"
    # Tokens that operators make for scripts, by scope. Some are limited to a subtree.
    TOKEN_READ = "operator token for reading"  # noqa: S105
    TOKEN_MESSAGES = "operator token for messages"  # noqa: S105
    TOKEN_EVERYTHING = "operator token for everything"  # noqa: S105
    # A caller that has no rights here, such as a join token.
    STRANGER = "stranger"


Rights = Mapping[Action, frozenset[Relation]]

_ALL = frozenset(Relation)
_BELOW = frozenset({Relation.DESCENDANT})
_SELF_AND_BELOW = _BELOW | {Relation.SELF}

_READ_ALL: Rights = dict.fromkeys(
    (
        *(Action.READ, Action.READ_TRANSCRIPT, Action.READ_CONFIG),
        *(Action.READ_MACHINES, Action.READ_SNAPSHOTS),
    ),
    _ALL,
)
_EVERYTHING: Rights = {action: _ALL for action in Action if action is not Action.MAKE_TOKENS}
_VM: Rights = {
    Action.READ: _ALL,
    Action.READ_TRANSCRIPT: _SELF_AND_BELOW,
    Action.READ_CONFIG: _SELF_AND_BELOW,
    Action.READ_MACHINES: _SELF_AND_BELOW,
    Action.WRITE: _SELF_AND_BELOW,
    Action.COMMAND: _BELOW,
    Action.SEND: _BELOW,
    Action.SIGNAL: frozenset({Relation.ANCESTOR, Relation.DESCENDANT, Relation.OTHER}),
    Action.ANSWER: _BELOW,
    Action.DESTROY: _BELOW,
    Action.ISSUE_TOKENS: _BELOW,
    Action.START: _BELOW,
    Action.PROVISION: _SELF_AND_BELOW,
    Action.GRANT: _BELOW,
}

# Actions that are not listed are refused.
RIGHTS: Mapping[CallerKind, Rights] = {
    CallerKind.ROOT: _EVERYTHING,
    CallerKind.OPERATOR: {**_EVERYTHING, Action.MAKE_TOKENS: _ALL},
    CallerKind.ACCOUNT: _READ_ALL,
    CallerKind.TOKEN_READ: _READ_ALL,
    CallerKind.TOKEN_MESSAGES: {**_READ_ALL, Action.SEND: _ALL, Action.ANSWER: _ALL},
    CallerKind.TOKEN_EVERYTHING: _EVERYTHING,
    CallerKind.LOCAL_AGENT: {**_VM, Action.START_BELOW: _SELF_AND_BELOW},
    CallerKind.VM: _VM,
    CallerKind.STRANGER: {},
}

# These actions make the process of a local agent start or run programs: messages because an agent
# has a shell, answers because they permit what it does, tokens because the holder acts as it. The
# caller must run on the same host.
DIRECTS_PROCESS = frozenset(
    {Action.START, Action.SEND, Action.SIGNAL, Action.ANSWER, Action.ISSUE_TOKENS}
)

# A token with a subtree has its rights for that node and its descendants; these for all.
NOT_LIMITED = frozenset({Action.READ})
# A token with a subtree may do these to descendants only: its node's own limits bind it.
ONLY_BELOW = frozenset({Action.GRANT})
_TOKEN_KINDS = {
    OperatorToken.Scope.READ: CallerKind.TOKEN_READ,
    OperatorToken.Scope.MESSAGES: CallerKind.TOKEN_MESSAGES,
    OperatorToken.Scope.EVERYTHING: CallerKind.TOKEN_EVERYTHING,
}

READS = frozenset(action for action in Action if action.name.startswith("READ"))

RULE = (
    "a node reads the fleet's registry and tree, and transcripts, config and machines of itself "
    "and its descendants; it writes about itself and its descendants, and commands its descendants"
)
ON_THIS_HOST = (
    "only the root token, operators, and lieutenants that run on this host, for those below "
    "themselves, start or direct processes here"
)
ACCOUNTS = "an account reads the fleet; only operators, which are superusers, change it"
TOKENS = (
    "an operator token does what its scope allows: read; send messages and answer questions; or"
    " everything but make tokens. One with a subtree does it there, and reads the fleet's registry"
    " and tree"
)
CLEAR_VALUES = "only operators and the root token see clear values"

FindHosts = Callable[[Sequence[str]], Mapping[str, str]]
local_agent_hosts: Hook[FindHosts] = Hook(
    "tree.local_agent_hosts", "Map the VMs among these that are local agents to their data folders."
)


def node_of(caller: object) -> Node | None:
    """Return the node whose token authenticated the caller; None for root token and operators."""
    node = getattr(caller, "node", None)
    return node if isinstance(node, Node) else None


def operator_token_of(caller: object) -> OperatorToken | None:
    """Return the operator token that authenticated the caller; None for all other callers."""
    token = getattr(caller, "operator_token", None)
    return token if isinstance(token, OperatorToken) else None


def home_of(caller: object) -> Node | None:
    """Return the node to whose line a caller is limited: its own, or the subtree of its token."""
    token = operator_token_of(caller)
    return token.subtree if token else node_of(caller)


def kind_of(caller: object) -> CallerKind:
    """Return the kind of a caller."""
    if caller is None or isinstance(caller, str):
        return CallerKind.ROOT
    if (node := node_of(caller)) is not None:
        return CallerKind.LOCAL_AGENT if host_of(node.vm_id) else CallerKind.VM
    if (token := operator_token_of(caller)) is not None:
        return _TOKEN_KINDS[OperatorToken.Scope(token.scope)]
    if hasattr(caller, "is_superuser"):
        return CallerKind.OPERATOR if caller.is_superuser else CallerKind.ACCOUNT
    return CallerKind.ROOT if hasattr(caller, "node") else CallerKind.STRANGER


def reach_of(caller: object, action: Action) -> frozenset[Relation]:
    """Return the relations that a target may have for this action; empty if it is refused.

    For a token with a subtree they are relations to the node of its subtree.
    """
    relations = RIGHTS[kind_of(caller)].get(action, frozenset())
    if operator_token_of(caller) and home_of(caller) and action not in NOT_LIMITED:
        return relations & _limit_of(action)
    return relations


def is_operator(caller: object) -> bool:
    """Return whether the caller has all rights of an operator on the whole fleet."""
    return home_of(caller) is None and Action.COMMAND in RIGHTS[kind_of(caller)]


def is_read_only(caller: object) -> bool:
    """Return whether the caller changes nothing anywhere, whatever a route checks."""
    token = operator_token_of(caller)
    return is_read_only_account(caller) or bool(token and token.scope == OperatorToken.Scope.READ)


def is_read_only_account(caller: object) -> bool:
    """Return whether this is an account that is not a superuser."""
    return getattr(caller, "is_superuser", True) is False


def host_of(vm_id: str) -> str:
    """Return the id of the data folder that a local agent belongs to; empty for any other VM."""
    return next((host for find in local_agent_hosts if (host := find([vm_id]).get(vm_id, ""))), "")


def relation_of(node: Node, target: Node | str | None) -> Relation:
    """Return how the target is related to the node. An id without a node counts as the fleet."""
    if isinstance(target, str):
        target = Node.objects.filter(vm_id=target).first()
    if target is None:
        return Relation.FLEET
    if target.pk == node.pk:
        return Relation.SELF
    if is_within(LINKS, target.pk, node.pk):
        return Relation.DESCENDANT
    return Relation.ANCESTOR if is_within(LINKS, node.pk, target.pk) else Relation.OTHER


def check(caller: object, action: Action | str, target: Node | str | None) -> None:
    """Raise Forbidden unless the caller may do this to the target.

    A target is a node, or the id of a VM that may or may not have a node; None is the whole fleet,
    or a place without a parent.
    """
    action = Action(action)
    if rule := broken_rule(caller, action, target):
        who = node.vm_id if (node := node_of(caller)) else caller
        text = f"rule: {rule}. {who} may not {action} {name_of(target)}"
        raise Forbidden(text, rule=rule, action=action.slug, target=name_of(target))


def may(caller: object, action: Action | str, target: Node | str | None) -> bool:
    """Return whether the caller may do this to the target."""
    return not broken_rule(caller, Action(action), target)


def allows(node: Node, action: Action | str, target: Node | str | None) -> bool:
    """Return whether this node's token permits the action on the target."""
    return not _rule_for_node(node, Action(action), target)


def readable(caller: object, action: Action) -> QuerySet[Node] | None:
    """Return the nodes, removed ones included, whose rows a list shows to the caller; None means
    all.

    `action` is one of READS.
    """
    node = node_of(caller)
    if node is None:
        if (home := home_of(caller)) and action not in NOT_LIMITED:
            return line_of(home) if may(caller, action, home) else Node.objects.none()
        return None if may(caller, action, None) else Node.objects.none()
    rights = RIGHTS[CallerKind.VM].get(action, frozenset())
    if rights == _ALL:
        return None
    return line_of(node) if rights else Node.objects.none()


def line_of(node: Node) -> QuerySet[Node]:
    """Return the node and its descendants, removed ones included."""
    everyone = dataclasses.replace(LINKS, living="")
    return Node.objects.filter(pk__in=recursion.descendants(everyone, node.pk))


def readable_among(caller: object, action: Action, vm_ids: Iterable[str]) -> set[str]:
    """Return those of the VM ids about which the caller may read this."""
    wanted = set(vm_ids)
    nodes = readable(caller, action)
    return wanted if nodes is None else wanted & set(nodes.values_list("vm_id", flat=True))


def broken_rule(caller: object, action: Action, target: Node | str | None) -> str:
    """Return the rule that refuses this; empty if it is allowed."""
    if (node := node_of(caller)) is not None:
        return _rule_for_node(node, action, target)
    kind = kind_of(caller)
    if RIGHTS[kind].get(action) and _is_in_reach(caller, action, target):
        return ""
    if operator_token_of(caller):
        return TOKENS
    if action is Action.READ_SECRETS:
        return CLEAR_VALUES
    return ACCOUNTS if kind is CallerKind.ACCOUNT else RULE


def name_of(target: Node | str | None) -> str:
    """Return the target's name in texts."""
    if target is None:
        return "the whole fleet"
    return target.vm_id if isinstance(target, Node) else target


# -- helpers -------------------------------------------------------------------------------------


def _is_in_reach(caller: object, action: Action, target: Node | str | None) -> bool:
    """Return whether the target is in the subtree of the caller's token, if it has one."""
    home = home_of(caller)
    return home is None or action in NOT_LIMITED or relation_of(home, target) in _limit_of(action)


def _limit_of(action: Action) -> frozenset[Relation]:
    """Return the relations to which a subtree limits the action of a token."""
    return _BELOW if action in ONLY_BELOW else _SELF_AND_BELOW


def _rule_for_node(node: Node, action: Action, target: Node | str | None) -> str:
    # The kind costs a query, so it is looked up only where the two kinds differ.
    if action is Action.START_BELOW and host_of(node.vm_id) != settings.DATA_FOLDER_ID:
        return f"{RULE}; {ON_THIS_HOST}"
    rights = RIGHTS[CallerKind.LOCAL_AGENT].get(action, frozenset())
    relation = None if rights == _ALL or not rights else relation_of(node, target)
    if rights != _ALL and (not rights or relation not in rights):
        return f"{RULE}; {CLEAR_VALUES}" if action is Action.READ_SECRETS else RULE
    if action is Action.SIGNAL and relation is Relation.ANCESTOR:
        # Whoever made it wants its reports.
        return ""
    if action in DIRECTS_PROCESS and target is not None:
        vm_id = target if isinstance(target, str) else target.vm_id
        host = host_of(vm_id)
        if host and host_of(node.vm_id) != host:
            return f"{RULE}; {ON_THIS_HOST}"
    return ""
