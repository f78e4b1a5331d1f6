"""What was destroyed stays so when an older database is restored over the same files.

The mark is a file in the lieutenant's own folder, which stays when it is destroyed.
"""

from __future__ import annotations

import contextlib
import logging
from datetime import UTC, datetime
from pathlib import Path

from django.conf import settings

from lieutenants.models import Lieutenant
from lieutenants.states import Status
from reef_site.common.errors import IllegalMove, LostRace

logger = logging.getLogger(__name__)

MARK = "destroyed"


def leave(lieutenant: Lieutenant) -> None:
    """Mark the folder of a destroyed lieutenant, where it is in this data folder."""
    mark = _mark_of(lieutenant)
    if lieutenant.data_folder != settings.DATA_FOLDER_ID or not mark.parent.is_dir():
        return
    try:
        with contextlib.suppress(FileExistsError):
            mark.touch(mode=0o600, exist_ok=False)
    except OSError as error:
        logger.warning("cannot mark %s as destroyed: %s", lieutenant, error)


def clear(lieutenant: Lieutenant) -> None:
    """Take the mark away: somebody wants the lieutenant back."""
    if lieutenant.data_folder == settings.DATA_FOLDER_ID:
        _mark_of(lieutenant).unlink(missing_ok=True)


def pause_marked() -> None:
    """Start nothing that was destroyed after the database's backup was made, and say so."""
    for lieutenant in Lieutenant.objects.here().living():
        try:
            facts = _mark_of(lieutenant).stat()
        except OSError:
            continue
        at = datetime.fromtimestamp(facts.st_mtime, UTC)
        text = (
            f"It was destroyed at {at:%Y-%m-%d %H:%M} UTC, after the backup of the database was "
            "made that is in use now. Resume it to have it back, or destroy it again."
        )
        if lieutenant.status == Status.PAUSED:
            Lieutenant.objects.filter(pk=lieutenant.pk).update(error=text)
            continue
        try:
            lieutenant.move(Status.PAUSED, reason=text, error=text)
        except (LostRace, IllegalMove) as error:
            logger.info("%s", error)


def _mark_of(lieutenant: Lieutenant) -> Path:
    return settings.LIEUTENANTS_DIR / lieutenant.pk / MARK
