"""Registration of data folders and the lease of their followers."""

from __future__ import annotations

import logging
import os
from datetime import datetime, timedelta
from pathlib import Path

from django.conf import settings
from django.db import connection, transaction
from django.db.models import Q

from lieutenants.exceptions import NotTheFollower
from lieutenants.hosts import destroyed_marks, paths, strays
from lieutenants.hosts.models import DataFolder
from lieutenants.models import Lieutenant, Process
from reef_site.common import clock
from registry.models import VM
from vmtree.snapshot_models import Snapshot
from vmtree.snapshots import files

logger = logging.getLogger(__name__)

# A follower renews its lease every five seconds.
SILENT_AFTER = timedelta(seconds=35)
# A time further in the future dates from before the clock was set back.
TOLERANCE = timedelta(seconds=5)


def has_own_database() -> bool:
    """Return whether the database is inside the data folder, so that no other folder uses it."""
    if connection.vendor != "sqlite":
        return False
    file = Path(str(connection.settings_dict["NAME"]))
    return file.is_absolute() and file.resolve().is_relative_to(settings.DATA_DIR)


MAX_NAMES = 10


def folder_fingerprint() -> str:
    """Return an identifier of this folder on this running machine; a copy has another one."""
    facts = os.stat(settings.DATA_DIR)
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        boot = ""
    return f"{boot} {facts.st_dev}:{facts.st_ino}"


def register_folder(follower: str = "") -> None:
    """Register this data folder with its current host name and path; correct its rows.

    `follower` is the id of the calling follower; without one, the lease is not taken. Raises
    NotTheFollower while another follower of the same identity is active.
    """
    now = clock.database_now()
    with transaction.atomic():
        DataFolder.objects.get_or_create(
            pk=settings.DATA_FOLDER_ID,
            defaults={
                "host": settings.HOST,
                "path": str(settings.DATA_DIR),
                "place": folder_fingerprint(),
            },
        )
        row = DataFolder.objects.select_for_update().get(pk=settings.DATA_FOLDER_ID)
        if problem := _rival_problem(row, follower) or _original_problem():
            raise NotTheFollower(problem)
        _claim_rows()
        _update_host_name(row.host)
        if changed := paths.correct_paths(row.pk, row.path):
            logger.warning("the data folder was moved here: %d paths were corrected", changed)
        destroyed_marks.pause_marked()
        row.host, row.path, row.place = settings.HOST, str(settings.DATA_DIR), folder_fingerprint()
        if follower:
            row.follower, row.seen_at = follower, now
        row.rival, row.rival_at = "", None
        row.save()


def renew_lease(follower: str) -> None:
    """Renew the follower's lease. Raises NotTheFollower if another one holds it."""
    mine = DataFolder.objects.filter(pk=settings.DATA_FOLDER_ID, follower=follower)
    if not mine.update(seen_at=clock.database_now()):
        register_folder(follower)


def release_lease(follower: str) -> None:
    """Release the lease, so that the next follower can start at once."""
    DataFolder.objects.filter(pk=settings.DATA_FOLDER_ID, follower=follower).update(follower="")


def record_rival(text: str) -> None:
    """Store that this data folder is not followed because another one has its identity."""
    DataFolder.objects.update_or_create(
        pk=settings.DATA_FOLDER_ID,
        defaults={"rival": text[:1300], "rival_at": clock.database_now()},
        create_defaults={
            "host": settings.HOST,
            "path": str(settings.DATA_DIR),
            "rival": text[:1300],
            "rival_at": clock.database_now(),
        },
    )


def _rival_problem(row: DataFolder, follower: str) -> str:
    """Return why this folder may not be followed now; empty if it may."""
    is_free = has_own_database() or not row.follower or row.follower == follower
    if is_free or row.place == folder_fingerprint() or not is_responding(row):
        return ""
    return (
        f"the data folder {settings.DATA_DIR} on {settings.HOST} has the identity of {row.path} on "
        f"{row.host}, which is in use, so it is not followed; if it is a copy, remove its file "
        "`identity`"
    )


def _original_problem() -> str:
    """Return why a copy with a new identity may not be followed yet; empty if it may.

    Its lieutenants have the ids of the original's, so both would control the same agents.
    """
    if not has_own_database():
        return ""
    others = Process.objects.live().exclude(data_folder__in=["", settings.DATA_FOLDER_ID])
    running = [
        process.lieutenant.name
        for process in others.select_related("lieutenant")
        if strays.runs_elsewhere(process)
    ]
    if not running:
        return ""
    names = ", ".join(sorted(running)[:MAX_NAMES])
    return (
        f"the data folder {settings.DATA_DIR} is a copy of one whose agents run, so it is not "
        f"followed; pause or destroy them there first: {names}"
    )


def is_responding(row: DataFolder, now: datetime | None = None) -> bool:
    """Return whether the follower has renewed its lease recently."""
    now = now or clock.database_now()
    return row.seen_at is not None and now - SILENT_AFTER < row.seen_at <= now + TOLERANCE


def _claim_rows() -> None:
    """Claim the rows of this folder that do not name it.

    These are rows of earlier versions, and all rows if the database is inside the folder.
    """
    mine = Q() if has_own_database() else Q(data_folder="")
    for row in Lieutenant.objects.filter(mine).exclude(data_folder=settings.DATA_FOLDER_ID):
        here = (settings.LIEUTENANTS_DIR / row.pk).is_dir()
        if has_own_database() or row.host == settings.HOST or here:
            Lieutenant.objects.filter(pk=row.pk).update(data_folder=settings.DATA_FOLDER_ID)
            row.processes.update(data_folder=settings.DATA_FOLDER_ID)
    if has_own_database():
        Process.objects.exclude(data_folder=settings.DATA_FOLDER_ID).update(
            data_folder=settings.DATA_FOLDER_ID
        )
        DataFolder.objects.exclude(pk=settings.DATA_FOLDER_ID).delete()


def _update_host_name(known: str) -> None:
    """Set the current host name in the rows of this folder."""
    # The host of a remote lieutenant is its machine.
    mine = Lieutenant.objects.filter(data_folder=settings.DATA_FOLDER_ID, transport="local")
    others = mine.active().exclude(host=settings.HOST)
    if ids := list(others.values_list("pk", flat=True)):
        logger.warning("%d lieutenants of %s are on %s now", len(ids), known, settings.HOST)
        VM.objects.filter(pk__in=ids).update(address=settings.HOST)
    others.update(host=settings.HOST)
    live = Process.objects.live().filter(data_folder=settings.DATA_FOLDER_ID, transport="local")
    live.exclude(host=settings.HOST).update(host=settings.HOST)
    for snapshot in Snapshot.objects.exclude(host=settings.HOST).only("pk", "file"):
        if snapshot.file and files.path_of(snapshot.file).exists():
            Snapshot.objects.filter(pk=snapshot.pk).update(host=settings.HOST)
