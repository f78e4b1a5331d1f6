"""The outside call that takes up or ends an unknown agent on a machine."""

from __future__ import annotations

import logging

from django.db import IntegrityError

from lieutenants.exceptions import TransportError
from lieutenants.supervision.transports.ssh.transport import SshTransport
from lieutenants.unknown_agents import on_machines, recovery
from lieutenants.unknown_agents.models import Request, UnknownAgent
from reef_site.common import events, outside
from reef_site.common.errors import IllegalMove, LostRace, ReefError
from reef_site.common.outside import Kind, Line, Result

logger = logging.getLogger(__name__)

KIND = "lieutenants.unknown_agent"
# Longer than a login and the end of an agent may take together.
LIMIT_SECONDS = 80.0
STILL_RUNS = "It has not ended yet."


def register() -> None:
    """Register the kind of call."""
    outside.call_kinds.register(Kind(_run, _shown), key=KIND)


def begin(row: UnknownAgent, *, by: object) -> None:
    """Have a worker carry out the row's request. Not for use in a transaction."""
    outside.make(KIND, {"run": row.pk}, by=by, limit=LIMIT_SECONDS)


def _run(run: str) -> Result:
    """Carry out the request of a row. A failure is stored there; the request can be repeated."""
    row = UnknownAgent.objects.on_machines().filter(pk=run).first()
    if row is None or not row.request:
        return {"text": "There is nothing to do."}
    try:
        problem = recovery.take_up(row) if row.request == Request.TAKE_UP else _end(row)
    except (ReefError, TransportError, IntegrityError, LostRace, IllegalMove) as error:
        problem = str(error)
    if problem:
        logger.warning("%s: cannot %s: %s", row, row.get_request_display(), problem)
        fields = {"request": "", "requested_at": None, "problem": problem}
        UnknownAgent.objects.filter(pk=row.pk).update(**fields)
    else:
        UnknownAgent.objects.filter(pk=row.pk).delete()
    events.publish_lieutenant(row.lieutenant_id)
    return {"text": problem}


def _end(row: UnknownAgent) -> str:
    """End exactly the agent that was found. Return why that failed, or ""."""
    transport = SshTransport(on_machines.place_of(row).place)
    if row.is_older:
        pid, started = row.handle["agent_pid"], row.handle["agent_started"]
        is_gone = transport.end_older_found(pid, started)
    else:
        is_gone = transport.end_found(row.directory, row.handle)
    if not is_gone:
        return STILL_RUNS
    logger.warning("%s on %s was ended, as %s asked", row, row.host, row.requested_by)
    return ""


def _shown(result: Result) -> list[Line]:
    text = str(result["text"])
    return [(not text, text or "It was carried out.")]
