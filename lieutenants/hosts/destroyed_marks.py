"""Marks of destroyed lieutenants, which survive the restore of an older database.

The mark is a file in the lieutenant's folder, which is kept when it is destroyed.
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

MARK_NAME = "destroyed"


def mark_destroyed(lieutenant: Lieutenant) -> None:
    """Mark the folder of a destroyed lieutenant if it is in this data folder."""
    mark = _mark_path(lieutenant)
    if lieutenant.data_folder != settings.DATA_FOLDER_ID or not mark.parent.is_dir():
        return
    try:
        with contextlib.suppress(FileExistsError):
            mark.touch(mode=0o600, exist_ok=False)
    except OSError as error:
        logger.warning("cannot mark %s as destroyed: %s", lieutenant, error)


def clear_mark(lieutenant: Lieutenant) -> None:
    """Remove the mark when the lieutenant is resumed."""
    if lieutenant.data_folder == settings.DATA_FOLDER_ID:
        _mark_path(lieutenant).unlink(missing_ok=True)


def pause_marked() -> None:
    """Pause lieutenants that were destroyed after the backup of this database was made."""
    for lieutenant in Lieutenant.objects.here().active().filter(transport="local"):
        try:
            facts = _mark_path(lieutenant).stat()
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


def _mark_path(lieutenant: Lieutenant) -> Path:
    return settings.LIEUTENANTS_DIR / lieutenant.pk / MARK_NAME
