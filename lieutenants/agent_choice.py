"""The default agent of new lieutenants, and changes of an agent's settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from django.conf import settings

from lieutenants import agents
from lieutenants.agents import dialect_of
from lieutenants.models import Lieutenant
from reef_site.common.errors import BadInput
from versconfig import config, values
from vmtree.models import Node

KEY = "REEF_AGENT_KIND"


class AgentKind(NamedTuple):
    """A kind of agent, and the command line of its preset, if one was chosen."""

    name: str
    command: Sequence[str] = ()


def choices() -> list[str]:
    """Return the values of the config key: kinds that need no command, and presets of others."""
    found = []
    for each in agents.DIALECTS.values():
        found += [f"{each.name}:{preset}" for preset in each.presets]
        if not each.features.command:
            found.append(each.name)
    return found


def parse(text: str) -> AgentKind:
    """Return the kind that `kind` or `kind:preset` names; no command for an unknown preset."""
    name, _, preset = text.partition(":")
    presets = agents.DIALECTS[name].presets if name in agents.DIALECTS else {}
    return AgentKind(name, presets[preset].command if preset in presets else ())


def default_for(parent: Node | None) -> AgentKind:
    """Return the agent of a new lieutenant below this node that names none. Raises BadValue."""
    return parse(config.text(KEY, parent))


def register() -> None:
    """Register the rule for values of the config key."""
    values.value_rules.register(_problem, key=KEY)


def _problem(text: str) -> str:
    known = choices()
    return "" if text in known else f"must be one of {', '.join(known)}"


# -- changes -------------------------------------------------------------------------------------


def changed_columns(lieutenant: Lieutenant, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the columns that other settings of its agent change, with their new values.

    `given` holds a `command`, and settings of the dialect; null and empty ones become the default.
    Raises BadInput, AgentMissing.
    """
    dialect, options = dialect_of(lieutenant), dict(given)
    kind = options.pop("dialect", lieutenant.agent)
    if kind != lieutenant.agent:
        raise BadInput(f"agent.dialect: it is {lieutenant.agent} for good", "agent")
    columns: dict[str, Any] = {}
    if "command" in options:
        columns["command"] = _checked_command(lieutenant, options.pop("command"))
    merged = dialect.check_options({**lieutenant.agent_options, **options})
    columns["agent_options"] = merged
    return {name: value for name, value in columns.items() if getattr(lieutenant, name) != value}


def _checked_command(lieutenant: Lieutenant, command: Sequence[str]) -> list[str]:
    dialect, found = dialect_of(lieutenant), list(command)
    dialect.check_command(found)
    is_here = lieutenant.is_local and lieutenant.data_folder == settings.DATA_FOLDER_ID
    if is_here and found != lieutenant.command:
        dialect.check_new_program(found)
    return found
