"""Configuration of a lieutenant's agent: its model, and the keys of model providers.

Both are resolved for the lieutenant's node at each start of its agent; the nearest scope wins.
Without stored values, reef's environment and settings apply.
"""

from __future__ import annotations

from typing import NamedTuple

from django.conf import settings

from lieutenants.membership import vm_id_of
from lieutenants.models import Lieutenant
from lieutenants.states import RUNNING
from versconfig import config
from versconfig.impact import Restart
from versconfig.keys import MODEL_KEYS, Key, TakesEffect
from versconfig.resolve import Source
from vmtree.models import Node

MODEL = "REEF_AGENT_MODEL"


def model_for(lieutenant: Lieutenant) -> str:
    """Return the model to start with; empty leaves the choice to the agent. Raises ReefError."""
    if has_own_model(lieutenant):
        return lieutenant.model
    node = _node_of(lieutenant)
    if config.resolve(MODEL, node).source in (Source.DEFAULT, Source.UNSET):
        return lieutenant.model
    return config.text(MODEL, node)


def has_own_model(lieutenant: Lieutenant) -> bool:
    """Return whether it was created with a model other than the default."""
    return lieutenant.model not in ("", settings.DEFAULT_MODEL)


class ProviderKeys(NamedTuple):
    """Environment variables from the store, and the versions of their values."""

    environment: dict[str, str]
    versions: list[int]


def provider_keys(lieutenant: Lieutenant) -> ProviderKeys:
    """Return the stored keys of model providers for a lieutenant. Raises ReefError.

    Keys in reef's environment override them and are passed on elsewhere.
    """
    return provider_keys_at(_node_of(lieutenant))


def provider_keys_at(node: Node | None) -> ProviderKeys:
    """Return the stored keys of model providers that apply at a node. Raises ReefError."""
    found = config.resolve_all(MODEL_KEYS, node)
    stored = {name: each for name, each in found.items() if each.source is Source.STORE}
    environment = {name: config.usable(each) for name, each in stored.items()}
    return ProviderKeys(
        environment, [each.winner.version for each in stored.values() if each.winner]
    )


def lieutenants_to_restart(key: Key, nodes: set[int]) -> list[Restart]:
    """Return the lieutenants at these nodes that run with an outdated value of the key."""
    if key.takes is not TakesEffect.NEXT_START:
        return []
    running = {vm_id_of(each): each for each in Lieutenant.objects.filter(status__in=RUNNING)}
    known = Node.objects.filter(vm_id__in=running).values_list("pk", "vm_id")
    concerned = [running[vm_id] for pk, vm_id in known if pk in nodes]
    if key.name == MODEL:
        concerned = [each for each in concerned if not has_own_model(each)]
    return sorted(Restart(each.name, each.pk, "lieutenants") for each in concerned)


def _node_of(lieutenant: Lieutenant) -> Node | None:
    return Node.objects.active().filter(vm_id=vm_id_of(lieutenant)).first()
