"""Check a wanted model against the lists of models that agents reported, by pi's rules."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from django.conf import settings

from lieutenants.agents.model_lists import summary
from lieutenants.agents.pi import config, settings_file
from lieutenants.models import AgentModels, Lieutenant
from lieutenants.models.agent_models import MAX_LISTS
from reef_site.common.errors import BadInput

if TYPE_CHECKING:
    from vmtree.models import Node

# Part of the agent's warning that the session's model is gone, which names both models.
RESTORE_WARNING = "Could not restore model"
_THINKING = re.compile(r":(?:off|minimal|low|medium|high|xhigh|max)$")


def check_model(lieutenant: Lieutenant, model: str) -> None:
    """Raise BadInput if the running agent does not have this model.

    A list from before a change of its keys or its `models.json` does not count.
    """
    known = AgentModels.objects.filter(lieutenant=lieutenant, process__ended_at=None).first()
    if not model or known is None or not known.names or _is_stale(lieutenant, known):
        return
    _check_listed(model, known)


def check_new_model(model: str, parent: Node | None, folder: str) -> None:
    """Raise BadInput if an agent that starts below this node cannot have this model.

    Agents with the same keys and configuration have the same models. Unless one of them runs here,
    nothing is known; a project's own settings may add models.
    """
    if not model or (folder and Path(folder, ".pi").exists()):
        return
    versions = sorted(config.provider_keys_at(parent).versions)
    listed = AgentModels.objects.filter(
        process__ended_at=None, lieutenant__data_folder=settings.DATA_FOLDER_ID
    )
    for known in listed.select_related("process").order_by("-at")[:MAX_LISTS]:
        if known.names and not _is_outdated(known) and versions == _versions(known):
            _check_listed(model, known)
            return


def check_images(lieutenant: Lieutenant) -> None:
    """Raise BadInput if the running agent's model takes no images, by the agent's own list."""
    known = AgentModels.objects.filter(lieutenant=lieutenant, process__ended_at=None).first()
    model = lieutenant.model_in_use
    if known is None or known.image_names is None or model not in known.names:
        return
    if model not in known.image_names:
        raise BadInput(f"images: the model {model} takes no images", "images")


def _check_listed(model: str, known: AgentModels) -> None:
    """Raise BadInput if the agent would not start with this model.

    It takes any id of a provider that it knows.
    """
    provider, slash, _ = model.strip().lower().partition("/")
    providers = {name.partition("/")[0].lower() for name in known.names}
    is_custom = bool(slash) and provider in providers
    if not is_custom and not matches(model, [*known.names, *known.labels]):
        raise BadInput(
            f"model: the agent has no '{model[:100]}'; these are: {summary(known.names)}", "model"
        )


def matches(model: str, names: Sequence[str]) -> bool:
    """Return whether a model name or pattern selects one of these models, by the agent's rules."""
    wanted = model.strip().lower()
    plain = _THINKING.sub("", wanted)
    return any(part in name.lower() for part in {wanted, plain} for name in names)


def _is_stale(lieutenant: Lieutenant, known: AgentModels) -> bool:
    versions = sorted(config.provider_keys(lieutenant).versions)
    return _is_outdated(known) or versions != _versions(known)


def _is_outdated(known: AgentModels) -> bool:
    """Return whether the configuration has changed since the agent began."""
    started = known.process.started_at.timestamp()
    for name in settings_file.ALL:
        with suppress(FileNotFoundError):
            if (settings.AGENT_CONFIG_DIR / name).stat().st_mtime > started:
                return True
    return False


def _versions(known: AgentModels) -> list[int]:
    """Return the versions of the stored keys that the agent was started with."""
    return sorted(known.process.state.get("secret_versions") or [])
