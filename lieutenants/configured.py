"""What configuration gives a lieutenant's agent: its model, and keys of model providers.

Both are resolved for the lieutenant's own node at each start of its agent, so the nearest scope
wins. Where nothing is stored, the environment of reef and its settings hold.
"""

from __future__ import annotations

from typing import NamedTuple

from django.conf import settings

from lieutenants.models import Lieutenant
from lieutenants.presence import vm_of
from lieutenants.states import RUNNING
from versconfig import config
from versconfig.keys import MODEL_KEYS, Key, Takes
from versconfig.resolve import Source
from vmtree.models import Node

MODEL = "REEF_AGENT_MODEL"


def model_of(lieutenant: Lieutenant) -> str:
    """The model to start with; empty is the agent's own choice. Raises FleetError."""
    if has_own_model(lieutenant):
        return lieutenant.model
    node = _node_of(lieutenant)
    if config.resolve(MODEL, node).source in (Source.DEFAULT, Source.UNSET):
        return lieutenant.model
    return config.text(MODEL, node)


def has_own_model(lieutenant: Lieutenant) -> bool:
    """Whether it was made with another model than those that name none."""
    return lieutenant.model not in ("", settings.DEFAULT_MODEL)


class Given(NamedTuple):
    """What the store gives to an agent: variables, and the versions that they come from."""

    environment: dict[str, str]
    versions: list[int]


def given(lieutenant: Lieutenant) -> Given:
    """Return the keys of model providers that are stored for it. Raises FleetError.

    What the environment of reef has is passed on elsewhere, and shadows what is stored.
    """
    found = config.resolve_all(MODEL_KEYS, _node_of(lieutenant))
    stored = {name: each for name, each in found.items() if each.source is Source.STORE}
    environment = {name: config.usable(each) for name, each in stored.items()}
    return Given(environment, [each.winner.version for each in stored.values() if each.winner])


def to_restart(key: Key, nodes: set[int]) -> list[str]:
    """Names of lieutenants at these nodes whose agents run and have the key's old value."""
    if key.takes is not Takes.NEXT_START:
        return []
    running = {vm_of(each): each for each in Lieutenant.objects.filter(status__in=RUNNING)}
    known = Node.objects.filter(vm_id__in=running).values_list("pk", "vm_id")
    concerned = [running[vm_id] for pk, vm_id in known if pk in nodes]
    if key.name == MODEL:
        concerned = [each for each in concerned if not has_own_model(each)]
    return sorted(each.name for each in concerned)


def _node_of(lieutenant: Lieutenant) -> Node | None:
    return Node.objects.living().filter(vm_id=vm_of(lieutenant)).first()
