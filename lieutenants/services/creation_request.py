"""The request for a new lieutenant, and its validation with the error texts of the API."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from django.conf import settings
from django.urls import NoReverseMatch, Resolver404, get_script_prefix, resolve, reverse

from bootloader.states import CleanupPolicy
from lieutenants import agent_choice, agents
from lieutenants.states import RestartPolicy
from reef_site.common.errors import BadInput
from reef_site.common.text import is_storable
from versconfig.screening import sources
from vmtree import ids
from vmtree.models import Node

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
MAX_MODEL_LENGTH = 200
NO_POLICY = f"restartPolicy: must be one of {', '.join(RestartPolicy.values)}"


_MAX_LENGTHS = {"role": 4000, "directive": 20_000, "folder": 1000, "parentVmId": 255}


@dataclass(frozen=True)
class CreateLieutenant:
    """Request for a new lieutenant. Texts are as they were given."""

    name: str
    role: str
    model: str = ""
    directive: str = ""
    folder: str = ""
    restart_policy: str = RestartPolicy.NEVER
    idle_limit_minutes: int | None = None
    stall_limit_seconds: int | None = None
    tool_limit_seconds: int | None = None
    dialog_limit_seconds: int | None = None
    limit_action: str | None = None
    sign_period_seconds: int | None = None
    sign_grace_seconds: int | None = None
    remote: bool = False
    # Where a remote one runs: the VM id of a provider's machine, or the name of an SSH host.
    vm_id: str = ""
    ssh_host: str = ""
    # Or the VM that is made for it: from a saved machine, by a profile, or both.
    commit_id: str = ""
    profile: str = ""
    on_failure: str = CleanupPolicy.DELETE
    # VM of its parent in the tree; empty for the home of the actor.
    parent_vm_id: str = ""
    # Name of the dialect of its agent (empty for the default in config), the command line for
    # those that are defined by one, and settings of the dialect.
    agent: str = ""
    command: Sequence[str] = ()
    agent_options: Mapping[str, Any] = field(default_factory=dict)

    def facts(self) -> dict[str, object]:
        """Return the fields; those that earlier versions lack only with another value."""
        usual: dict[str, object] = {"agent": "", "command": (), "agent_options": {}}
        usual |= {"vm_id": "", "ssh_host": "", "commit_id": "", "profile": ""}
        usual |= {"on_failure": CleanupPolicy.DELETE, "dialog_limit_seconds": None}
        usual |= {"limit_action": None, "sign_period_seconds": None, "sign_grace_seconds": None}
        found = {**asdict(self), "command": tuple(self.command)}
        if self.agent == agents.DEFAULT:
            del found["agent"]
        return {key: value for key, value in found.items() if usual.get(key, self) != value}


def check(request: CreateLieutenant, name: str, role: str) -> None:
    """Validate a request, with the error texts of the API."""
    if not name:
        raise BadInput("name is required", "name")
    if not role:
        raise BadInput("role is required", "role")
    check_name(name)
    if request.restart_policy not in RestartPolicy.values:
        raise BadInput(NO_POLICY, "restart_policy")
    check_texts(
        role=role,
        directive=request.directive,
        folder=request.folder,
        parentVmId=request.parent_vm_id,
    )
    check_model(request.model)
    _check_agent_fields(request)


def check_texts(**texts: str) -> None:
    """Raise BadInput if one of these texts (by field) is too long, or no text."""
    for label, text in texts.items():
        if len(text) > _MAX_LENGTHS[label]:
            raise BadInput(f"{label}: at most {_MAX_LENGTHS[label]} characters", label)
        if not is_storable(text):
            raise BadInput(f"{label}: has characters that are no text", label)


def with_agent(request: CreateLieutenant, parent: Node | None) -> CreateLieutenant:
    """Return the request with an agent: the default one, unless it names one. Raises ReefError."""
    if request.agent:
        return request
    kind, command = agent_choice.default_for(parent)
    found = replace(request, agent=kind, command=request.command or command)
    _check_agent_fields(found)
    return found


def check_name(name: str) -> None:
    """Raise BadInput unless a lieutenant can have this name."""
    if not NAME.fullmatch(name):
        raise BadInput("name: 1 to 64 of A-Z a-z 0-9 . _ - and a letter or digit first", "name")
    if name.startswith(ids.LOCAL):
        # The `vmId` of a lieutenant has this prefix.
        raise BadInput(f"name: must not begin with {ids.LOCAL}", "name")
    if route := _route_in_the_way(name):
        raise BadInput(f"name: '{name}' cannot be used, as {route} is a route of its own", "name")


def _check_agent_fields(request: CreateLieutenant) -> None:
    """Validate the kind of agent, and what this kind needs or does not have.

    A request that names none is checked again when it has the default one.
    """
    if not request.agent:
        return
    dialect = agents.DIALECTS.get(request.agent)
    if dialect is None:
        raise BadInput(f"agent: must be one of {', '.join(agents.DIALECTS)}", "agent")
    dialect.check_command(request.command)
    dialect.check_options(request.agent_options)
    if request.model.strip() and not dialect.features.models:
        raise BadInput(f"model: the agent '{dialect.name}' uses no model", "model")


def _route_in_the_way(name: str) -> str:
    """Return the URL path of this name if another route owns it; otherwise an empty string."""
    for route in ("lieutenant-detail", "lieutenants:detail"):
        try:
            path = "/" + reverse(route, args=[name]).removeprefix(get_script_prefix())
            leads_here = resolve(path).view_name == route
        except (NoReverseMatch, Resolver404):
            continue
        if not leads_here:
            return path
    return ""


def default_model(agent: str) -> str:
    """Return the model of a lieutenant that names none; empty leaves it to the agent."""
    dialect = agents.DIALECTS.get(agent)
    return settings.DEFAULT_MODEL if dialect and dialect.features.default_model else ""


def check_model(model: str) -> None:
    """Validate the name of a model. Raises BadInput."""
    if len(model) > MAX_MODEL_LENGTH:
        raise BadInput(f"model: at most {MAX_MODEL_LENGTH} characters", "model")
    if not is_storable(model):
        raise BadInput("model: has characters that are no text", "model")
    if model.strip().startswith("-"):
        raise BadInput("model: must not start with a dash", "model")


def without_secrets(request: CreateLieutenant) -> CreateLieutenant:
    """Return the request with secrets in its texts covered. Raises BadInput for one in a name."""
    refuse_secrets(
        name=request.name,
        model=request.model,
        folder=request.folder,
        command="\n".join(request.command),
        agent="\n".join(map(str, request.agent_options.values())),
    )
    cover = sources.current().cover
    return replace(request, role=cover(request.role), directive=cover(request.directive))


def refuse_secrets(**texts: str) -> None:
    """Raise BadInput, with the name of the text, if one of these holds a known secret."""
    cover = sources.current(recheck=True).cover
    for label, text in texts.items():
        if cover(text) != text:
            raise BadInput(f"{label}: must not hold a secret", label)
