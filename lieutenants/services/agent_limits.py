"""Limits on the agents that agents choose for others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lieutenants.agents import dialect_of
from lieutenants.models import Lieutenant
from reef_site.common.errors import Forbidden
from vmtree import permissions
from vmtree.permissions import Action

RULE = (
    "an agent that has to ask for permissions chooses for others no kind of agent that does not "
    "ask, no command line but its own and those of presets, and no setting that permits more"
)


def check(
    actor: object,
    action: Action,
    target: str,
    *,
    agent: str,
    command: Sequence[str],
    options: Mapping[str, Any],
) -> None:
    """Raise Forbidden if the actor is an agent that may do less by itself than the one it chooses.

    An empty `agent` is the default in config, which operators choose. `options` holds the settings
    that it chooses, `target` the name of the lieutenant that gets them.
    """
    node = permissions.node_of(actor)
    own = Lieutenant.objects.active().filter(pk=node.vm_id).first() if node else None
    if own is None or not (agent or command):
        return
    if excess := dialect_of(own).excess_of(own, agent, command, options):
        text = f"rule: {RULE}. {own.name} may not choose for {target}: {excess}"
        raise Forbidden(text, rule=RULE, action=action.slug, target=target)
