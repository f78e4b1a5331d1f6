"""How full the agent's context is, asked when the agent has settled after a run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lieutenants.agents.events import ContextUsage, Reply
from lieutenants.agents.pi import rpc
from lieutenants.models import Lieutenant
from reef_site.common import events

if TYPE_CHECKING:
    from lieutenants.sessions.session import Session

REQUEST = "~stats-"


def ask(session: Session) -> None:
    """Ask for the usage, once after each change of the context."""
    memory = session.memory
    if memory.context_changed and not session.asked_stats:
        session.asked_stats = True
        memory.stats_asked += 1
        command = f"{REQUEST}{memory.stats_asked}"
        session.outgoing.append(rpc.simple("get_session_stats", command))


def store(session: Session, reply: Reply) -> None:
    """Store the agent's reply; a reply that has no usage clears the stored one."""
    session.asked_stats = False
    session.memory.context_changed = False
    usage = reply.content.figures if isinstance(reply.content, ContextUsage) else None
    mine = Lieutenant.objects.filter(pk=session.lieutenant.pk)
    if usage != mine.values_list("context_usage", flat=True).get():
        mine.update(context_usage=usage)
        events.publish_lieutenant(session.lieutenant.pk)


def parse(data: Any) -> dict[str, float] | None:
    """Return `tokens`, `window` and `percent`; None if the agent does not know them.

    That is so right after a compaction, and in versions without this figure.
    """
    found = data.get("contextUsage") if isinstance(data, dict) else None
    if not isinstance(found, dict):
        return None
    tokens, window = _count(found.get("tokens")), _count(found.get("contextWindow"))
    if tokens is None or not window:
        return None
    return {"tokens": tokens, "window": window, "percent": round(100 * tokens / window, 1)}


def _count(value: Any) -> int | None:
    """Return a count of tokens; None for anything invalid."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return int(value) if is_number and 0 <= value < 1 << 53 else None
