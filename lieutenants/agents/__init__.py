"""Agents: a folder for each kind, the table of their dialects, and what all have in common."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lieutenants.agents.acp.dialect import AcpDialect
from lieutenants.agents.command.dialect import CommandDialect
from lieutenants.agents.pi.dialect import PiDialect
from lieutenants.exceptions import AgentMissing

if TYPE_CHECKING:
    from lieutenants.agents.base import Dialect
    from lieutenants.models import Lieutenant

DEFAULT = "pi"
DIALECTS: dict[str, Dialect] = {
    each.name: each for each in (PiDialect(), CommandDialect(), AcpDialect())
}


def dialect_of(lieutenant: Lieutenant) -> Dialect:
    """Return the dialect of a lieutenant's agent.

    Raises AgentMissing for a kind of agent that this version does not know.
    """
    try:
        return DIALECTS[lieutenant.agent]
    except KeyError:
        raise AgentMissing(f"This version has no agent '{lieutenant.agent}'.") from None
