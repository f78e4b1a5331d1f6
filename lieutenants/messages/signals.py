"""Signals: messages between relatives in the tree, such as a report to the parent.

A signal is a message with its usual receipt, marked with the name of its sender, so that the agent
does not take it for one of the operator. A node reaches its parent, its children and its siblings;
which of them it may signal is in `vmtree.permissions`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

from django.db.models import QuerySet

from lieutenants import services
from lieutenants.membership import vm_id_of
from lieutenants.models import Lieutenant, Message
from lieutenants.states import Mode
from reef_site.common.errors import BadInput, NotFound, ReefError
from vmtree import permissions
from vmtree.models import Node
from vmtree.permissions import Action


class Direction(StrEnum):
    """The receivers of a signal."""

    PARENT = "parent"
    CHILDREN = "children"
    SIBLINGS = "siblings"


# What the sender is for the receiver.
SENDER_IS = {
    Direction.PARENT: "child",
    Direction.CHILDREN: "parent",
    Direction.SIBLINGS: "sibling",
}


# Characters by which a name could look like the end of the mark, and like another sender.
_UNSAFE = re.compile(r"[\[\],\r\n]")


@dataclass(frozen=True)
class Receipt:
    """Result of a signal for one receiver: a message, or the reason why there is none."""

    name: str
    message: Message | None = None
    error: str = ""


def signal(to: Direction, text: str, *, actor: object) -> list[Receipt]:
    """Send a signal to the relatives of the actor's node; one receipt for each lieutenant.

    Raises BadInput for an actor without a node, NotFound without a receiver, and the error of a
    single receiver.
    """
    node = permissions.node_of(actor)
    if node is None:
        raise BadInput("to: only agents with a place in the tree have relatives", "to")
    nodes = _relatives(node, to)
    ids = list(nodes.values_list("vm_id", flat=True))
    receivers = list(Lieutenant.objects.active().filter(pk__in=ids).order_by("created_at", "id"))
    if not receivers:
        raise NotFound(f"to: there is no lieutenant among your {to}" if ids else f"to: no {to}")
    sender = _UNSAFE.sub("_", node.name or node.vm_id)
    marked = f"[Signal from {sender}, your {SENDER_IS[to]}]\n{text}"
    if len(receivers) == 1:
        return [_send(receivers[0], marked, actor)]
    return [_try_to_send(each, marked, actor) for each in receivers]


def is_sender(caller: object, message: Message) -> bool:
    """Return whether the caller sent this message."""
    return permissions.node_of(caller) is not None and message.actor == str(caller)[:200]


def _relatives(node: Node, to: Direction) -> QuerySet[Node]:
    nodes = Node.objects.active()
    if to is Direction.CHILDREN:
        return nodes.filter(parent=node.pk)
    if node.parent_id is None:
        return nodes.none()
    if to is Direction.PARENT:
        return nodes.filter(pk=node.parent_id)
    return nodes.filter(parent=node.parent_id).exclude(pk=node.pk)


def _send(receiver: Lieutenant, text: str, actor: object) -> Receipt:
    permissions.check(actor, Action.SIGNAL, vm_id_of(receiver))
    message, _ = services.send(
        receiver.name, text, mode=Mode.FOLLOW_UP, actor=actor, action=Action.SIGNAL
    )
    return Receipt(receiver.name, message)


def _try_to_send(receiver: Lieutenant, text: str, actor: object) -> Receipt:
    """Send to one of several receivers: a paused one does not keep it from the others."""
    try:
        return _send(receiver, text, actor)
    except ReefError as error:
        return Receipt(receiver.name, error=str(error))
