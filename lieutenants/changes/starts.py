"""Notes which commit is checked out when a lieutenant starts for the first time."""

from __future__ import annotations

import logging
import os
import re

from lieutenants.changes import questions, reading
from lieutenants.models import Lieutenant
from reef_site.common import clock
from reef_site.common.errors import ReefError

logger = logging.getLogger(__name__)

_SECONDS = 5.0
_COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


def note_start(lieutenant: Lieutenant) -> None:
    """Store the commit and the time, unless they are known. For use right before a start.

    Without a repository the commit is empty. A failure is logged: git's own log of commits has to
    tell then.
    """
    if lieutenant.start_noted_at is not None or lieutenant.has_attached():
        return
    now = clock.now()
    request = {"op": "head", **questions.place_of(lieutenant), "seconds": _SECONDS}
    commit = ""
    try:
        if _may_have_repository(lieutenant, upward=bool(request["upward"])):
            commit = str(
                reading.read_changes(lieutenant, request, reading.START_SLOT).get("commit") or ""
            )
    except (ReefError, OSError) as error:
        logger.info("%s: cannot tell its commit at the start: %s", lieutenant, error)
        return
    lieutenant.start_commit = commit if _COMMIT.fullmatch(commit) else ""
    lieutenant.start_noted_at = now
    Lieutenant.objects.filter(pk=lieutenant.pk, start_noted_at=None).update(
        start_commit=lieutenant.start_commit, start_noted_at=now
    )


def _may_have_repository(lieutenant: Lieutenant, *, upward: bool) -> bool:
    """Return whether it is worth asking: a new folder of its own is empty."""
    if upward:
        return True
    return lieutenant.is_local and os.path.lexists(os.path.join(lieutenant.folder, ".git"))
