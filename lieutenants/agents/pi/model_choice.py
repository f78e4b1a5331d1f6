"""The model a lieutenant should use, the one it uses, and the available ones.

If the wanted model is gone, the agent continues with another one and reports that at most on
stderr. So we ask it for its list when it is ready and compare.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from django.conf import settings
from django.utils import timezone

from lieutenants.agents.events import Model, ModelList, Reply
from lieutenants.agents.pi import config
from lieutenants.isolation.homes import CREDENTIALS
from lieutenants.models import AgentModels, Lieutenant
from reef_site.common.errors import BadInput

if TYPE_CHECKING:
    from datetime import datetime

    from lieutenants.sessions.session import Session
    from vmtree.models import Node

LIST_REQUEST_ID = "~models"
# Part of the agent's warning that the session's model is gone, which names both models.
RESTORE_WARNING = "Could not restore model"
_MAX_LISTED = 12
# Lists of agents that are looked at, and names that a form offers.
_MAX_LISTS, _MAX_OFFERED = 20, 500
_MAX_STORED = 5000
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
    for known in listed.select_related("process").order_by("-at")[:_MAX_LISTS]:
        if known.names and not _is_outdated(known) and versions == _versions(known):
            _check_listed(model, known)
            return


def offered_models(lieutenant: Lieutenant | None = None) -> list[str]:
    """Return the names of models for a form: those of this agent, else of all agents here."""
    listed = AgentModels.objects.filter(lieutenant__data_folder=settings.DATA_FOLDER_ID)
    if lieutenant is not None and listed.filter(lieutenant=lieutenant).exists():
        listed = listed.filter(lieutenant=lieutenant)
    newest = listed.order_by("-at").values_list("names", flat=True)[:_MAX_LISTS]
    return sorted({name for names in newest for name in names})[:_MAX_OFFERED]


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


def summary(names: Sequence[str]) -> str:
    """Return the first model names as text."""
    shown = ", ".join(names[:_MAX_LISTED])
    return f"{shown} and {len(names) - _MAX_LISTED} more" if len(names) > _MAX_LISTED else shown


def store_model_in_use(session: Session, model: Model, at: datetime) -> None:
    """Store the model in use, when the agent is ready, and report a difference."""
    name = model.name[:200]
    row = Lieutenant.objects.only("model_wanted", "model_in_use").get(pk=session.lieutenant.pk)
    before, wanted = row.model_in_use, row.model_wanted
    problem = ""
    if wanted and not matches(wanted, [name, model.label]):
        problem = f"Its model {wanted} is not there; the agent goes on with {name}."
    elif any(RESTORE_WARNING in note for note in session.memory.notes):
        pass
    elif not wanted and before and before != name:
        # Until now it used the session's model. Report the change once: the new one may be the
        # default.
        session.notice(at, f"The agent's model was {before}; it goes on with {name}.")
    _note(session, problem, at)
    session.lieutenant.model_in_use = name
    Lieutenant.objects.filter(pk=session.lieutenant.pk).update(
        model_in_use=name, model_problem=problem
    )


def note_warning(session: Session, text: str, at: datetime) -> None:
    """Show a warning about the model that the agent printed to stderr, at the latest when ready."""
    if session.process.ready_at is None:
        session.memory.notes.append(text)
    else:
        session.notice(at, text, is_error=True)


def store_model_list(session: Session, reply: Reply, at: datetime) -> None:
    """Store the list of models, and report if the model in use is not among them."""
    listed = reply.content.models if isinstance(reply.content, ModelList) else ()
    names = [each.name for each in listed[:_MAX_STORED]]
    labels = [each.label for each in listed[:_MAX_STORED]]
    if not reply.success or not names:
        return
    AgentModels.objects.update_or_create(
        lieutenant=session.lieutenant,
        defaults={
            "names": names,
            "labels": labels,
            "process": session.process,
            "at": timezone.now(),
        },
    )
    used = session.lieutenant.model_in_use
    if used and used not in names:
        problem = (
            f"Its model {used} is not among the agent's models, so the figures of its cost may be "
            f"another model's. These are there: {summary(names)}."
        )
        _note(session, problem, at)
        Lieutenant.objects.filter(pk=session.lieutenant.pk).update(model_problem=problem)


def _note(session: Session, problem: str, at: datetime) -> None:
    if problem:
        session.notice(at, problem, is_error=True)


def _is_stale(lieutenant: Lieutenant, known: AgentModels) -> bool:
    versions = sorted(config.provider_keys(lieutenant).versions)
    return _is_outdated(known) or versions != _versions(known)


def _is_outdated(known: AgentModels) -> bool:
    """Return whether the configuration has changed since the agent began."""
    started = known.process.started_at.timestamp()
    for name in (*CREDENTIALS, "settings.json"):
        with suppress(FileNotFoundError):
            if (settings.AGENT_CONFIG_DIR / name).stat().st_mtime > started:
                return True
    return False


def _versions(known: AgentModels) -> list[int]:
    """Return the versions of the stored keys that the agent was started with."""
    return sorted(known.process.state.get("secret_versions") or [])
