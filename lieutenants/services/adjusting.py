"""Changed settings of existing lieutenants."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from django.db import transaction
from django.db.models import QuerySet

from lieutenants import agent_choice, limits, membership
from lieutenants.agents import dialect_of
from lieutenants.exceptions import NotNow
from lieutenants.models import Lieutenant
from lieutenants.prompts import system_prompt
from lieutenants.services import agent_limits
from lieutenants.services.commands import begin_session, restart, stop_frozen_process
from lieutenants.services.creation_request import (
    NO_POLICY,
    check_model,
    check_texts,
    default_model,
    refuse_secrets,
)
from lieutenants.services.lookup import permitted
from lieutenants.services.transitions import record
from lieutenants.states import RestartPolicy, Status
from reef_site.common import events
from reef_site.common.errors import BadInput, LostRace
from versconfig.screening import sources
from vmtree import permissions
from vmtree.models import Node
from vmtree.permissions import Action

logger = logging.getLogger(__name__)

_TEXTS = ("role", "directive")
RESTARTABLE = frozenset({Status.IDLE, Status.WORKING, Status.ERROR})


def adjust(
    name: str, changes: Mapping[str, object], *, actor: object, restart_now: bool = False
) -> Lieutenant:
    """Change settings of a lieutenant: role, directive, model, restart policy, limits (by column).

    `agent` holds settings of its agent, see `agent_choice.changed_columns`. These, role, directive
    and model take effect at the agent's next start, which `restart_now` triggers unless the
    lieutenant is paused or starting. Raises BadInput, NotFound, NotNow, Forbidden, AgentMissing.
    """
    columns = dict(changes)
    if any(columns[name] is None for name in columns if name in limits.LIMITS):
        found = permitted(name, actor, Action.COMMAND)
        node = Node.objects.filter(vm_id=membership.vm_id_of(found)).first()
        columns = limits.with_defaults(columns, node)
    # A policy that restarts the agent starts a process later without a further request.
    restarts = columns.get("restart_policy", RestartPolicy.NEVER) != RestartPolicy.NEVER
    action = Action.START if restart_now or restarts else Action.COMMAND
    lieutenant = permitted(name, actor, action)
    if "model" in columns:
        columns["model"] = columns["model"] or default_model(lieutenant.agent)
        check_model(str(columns["model"]))
        refuse_secrets(model=str(columns["model"]))
    columns = _with_instructions(lieutenant, columns)
    is_other_model = columns.get("model", lieutenant.model) != lieutenant.model
    if is_other_model:
        dialect_of(lieutenant).check_model(lieutenant, str(columns["model"]))
    if columns.get("restart_policy", RestartPolicy.NEVER) not in RestartPolicy.values:
        raise BadInput(NO_POLICY, "restart_policy")
    agent: Any = columns.pop("agent", {})
    changed = _agent_changes(lieutenant, agent, actor, restart_now=restart_now)
    with transaction.atomic():
        if changed or is_other_model:
            stop_frozen_process(lieutenant)
        if columns := {**columns, **changed}:
            if not _unchanged(lieutenant, changed).update(**columns):
                raise LostRace(f"{lieutenant} was changed by another request")
            _announce(lieutenant, columns, actor)
        if restart_now and lieutenant.status in RESTARTABLE:
            restart(name, actor=actor)
        if "command" in changed and dialect_of(lieutenant).features.session:
            # Another program does not know the session of the earlier one.
            begin_session(lieutenant)
    logger.info("%s: %s changed by %s", name, ", ".join(sorted(columns)), actor)
    lieutenant.refresh_from_db()
    return lieutenant


def _with_instructions(lieutenant: Lieutenant, columns: Mapping[str, object]) -> dict[str, object]:
    """Return the columns with checked texts and the system prompt, if these change.

    Raises BadInput.
    """
    given = {name: str(columns[name]) for name in _TEXTS if name in columns}
    # Forms send line breaks of their own.
    given = {name: text.replace("\r\n", "\n").strip() for name, text in given.items()}
    check_texts(**given)
    if not given.get("role", lieutenant.role):
        raise BadInput("role is required", "role")
    cover = sources.current(recheck=True).cover
    old = {name: getattr(lieutenant, name) for name in _TEXTS}
    new = {**old, **{name: cover(text) for name, text in given.items()}}
    changed = {name: new[name] for name in _TEXTS if new[name] != old[name]}
    if changed:
        changed["system_prompt"] = system_prompt(lieutenant.name, **new)
    return {**{name: columns[name] for name in columns if name not in _TEXTS}, **changed}


def _announce(lieutenant: Lieutenant, columns: Mapping[str, object], actor: object) -> None:
    """Record the change, and tell registry and pages; runs in its transaction."""
    if "role" in columns:
        membership.on_role_change(lieutenant, str(columns["role"]))
    told = {name: value for name, value in columns.items() if name != "system_prompt"}
    record("changed", lieutenant, actor, **told)
    events.publish_lieutenant(lieutenant.pk)


def _unchanged(lieutenant: Lieutenant, changed: Mapping[str, Any]) -> QuerySet[Lieutenant]:
    """Return the row if what the changes of its agent depend on is still as it was read."""
    found = Lieutenant.objects.filter(pk=lieutenant.pk)
    if changed:
        found = found.filter(agent_options=lieutenant.agent_options)
    return found.filter(status=lieutenant.status) if "command" in changed else found


def _agent_changes(
    lieutenant: Lieutenant, given: Mapping[str, Any], actor: object, *, restart_now: bool
) -> dict[str, Any]:
    """Return the columns that other settings of the agent change.

    Raises BadInput, Forbidden, AgentMissing, or NotNow for a command that cannot change now.
    """
    if not given:
        return {}
    columns = agent_choice.changed_columns(lieutenant, given)
    if not columns:
        return {}
    # They decide which programs run, and what the agent does without asking.
    permissions.check(actor, Action.START, membership.vm_id_of(lieutenant))
    old, new = lieutenant.agent_options, columns.get("agent_options", {})
    agent_limits.check(
        actor,
        Action.START,
        lieutenant.name,
        agent=lieutenant.agent,
        command=columns.get("command", ()),
        options={name: value for name, value in new.items() if value != old.get(name)},
    )
    refuse_secrets(
        command="\n".join(columns.get("command", ())),
        agent="\n".join(map(str, columns.get("agent_options", {}).values())),
    )
    will_restart = restart_now and lieutenant.status in RESTARTABLE
    if "command" in columns and not (will_restart or lieutenant.status == Status.PAUSED):
        raise NotNow("command: can be changed with a restart, or while the lieutenant is paused")
    return columns
