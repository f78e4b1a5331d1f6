"""Marks of destroyed lieutenants, which survive the restore of an older database.

The mark is a file in the lieutenant's folder, which is kept when it is destroyed. One that ran on a
machine has only its mark there, in the data folder of the process that destroyed it.
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
    """Mark a destroyed lieutenant, if its folder is in this data folder or on no host of reef."""
    mark = _mark_path(lieutenant)
    try:
        if not lieutenant.is_local:
            mark.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        elif lieutenant.data_folder != settings.DATA_FOLDER_ID or not mark.parent.is_dir():
            return
        with contextlib.suppress(FileExistsError):
            mark.touch(mode=0o600, exist_ok=False)
    except OSError as error:
        logger.warning("cannot mark %s as destroyed: %s", lieutenant, error)


def clear_mark(lieutenant: Lieutenant) -> None:
    """Remove the mark when the lieutenant is resumed."""
    if not lieutenant.is_local or lieutenant.data_folder == settings.DATA_FOLDER_ID:
        _mark_path(lieutenant).unlink(missing_ok=True)


def pause_marked() -> None:
    """Pause lieutenants that were destroyed after the backup of this database was made."""
    here = Lieutenant.objects.here().active().filter(transport="local")
    for lieutenant in here | Lieutenant.objects.active().exclude(transport="local"):
        try:
            facts = _mark_path(lieutenant).stat()
        except OSError:
            continue
        at = datetime.fromtimestamp(facts.st_mtime, UTC)
        if not lieutenant.is_local and lieutenant.status_since > at:
            # It was resumed by a process with another data folder.
            continue
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


def is_marked(lieutenant_id: str) -> bool:
    """Return whether a lieutenant of this id was destroyed, though no row says so."""
    return (settings.LIEUTENANTS_DIR / lieutenant_id / MARK_NAME).exists()


def _mark_path(lieutenant: Lieutenant) -> Path:
    return settings.LIEUTENANTS_DIR / lieutenant.pk / MARK_NAME
