"""Usage of the agent's context, queried when the agent has settled after a run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lieutenants.agents.events import ContextUsage, Reply
from lieutenants.models import Lieutenant
from reef_site.common import events

if TYPE_CHECKING:
    from lieutenants.sessions.session import Session

REQUEST = "~stats-"


def ask(session: Session) -> None:
    """Ask for the usage, once after each change of the context."""
    memory = session.memory
    if not memory.context_changed or session.asked_stats:
        return
    query = session.dialect.query_context(f"{REQUEST}{memory.stats_asked + 1}")
    if query is None:
        memory.context_changed = False
        return
    session.asked_stats = True
    memory.stats_asked += 1
    session.outgoing.append(query)


def store(session: Session, reply: Reply) -> None:
    """Store the agent's reply; a reply that has no usage clears the stored one."""
    session.asked_stats = False
    session.memory.context_changed = False
    if session.process.stop_asked_at is not None:
        # Its successor may have a new session, which this figure is not about.
        return
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
