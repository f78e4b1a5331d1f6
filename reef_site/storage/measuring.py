"""Measures the database and this data folder, in a worker, and keeps what it found."""

from __future__ import annotations

import time
from typing import Any

from django.conf import settings
from django.db import Error as DatabaseError

from lieutenants.hosts.liveness import list_hosts
from lieutenants.tasks import queue_of
from reef_site.common import clock, outside
from reef_site.common.dispatch import dispatch
from reef_site.common.models import OutsideCall
from reef_site.common.outside import Kind, Line, Result
from reef_site.sqlite import log
from reef_site.storage import folders, queries
from reef_site.storage.models import Measurement

Json = dict[str, Any]
MEASURE = "storage.measure"
_LIMIT_SECONDS = 150.0


def register() -> None:
    """Register the measurement that an operator asks for."""
    outside.call_kinds.register(Kind(_measure_for_call, _measured), key=MEASURE)


def measure_now(*, by: object) -> OutsideCall:
    """Have a worker measure."""
    return outside.make(MEASURE, {}, by=by, limit=_LIMIT_SECONDS)


def measure() -> None:
    """Measure the database and this data folder, and have other hosts measure theirs."""
    if "lieutenant" in settings.ORGANS:
        for host in list_hosts():
            if host.answers and host.id and not host.is_here:
                dispatch("storage.measure_folder", queue=queue_of(host.id))
    measure_folder()
    measure_database()


def measure_database() -> None:
    """Measure the tables, and keep the result."""
    began = time.monotonic()
    facts: Json = {}
    try:
        facts["tables"] = [
            [table.name, table.rows, table.size_bytes] for table in queries.table_sizes()
        ]
    except DatabaseError as error:
        # An SQLite library may lack the table `dbstat`.
        facts["problem"] = f"the database does not tell the sizes of its tables: {error}"
    size, free = queries.database_bytes()
    found = log.look()
    facts |= {"bytes": size, "freeBytes": free, "logBytes": found.size_bytes if found else None}
    _keep(Measurement.DATABASE, facts, began)


def measure_folder() -> None:
    """Measure this data folder, and keep the result."""
    began = time.monotonic()
    found = folders.measure()
    facts = {
        "parts": _sizes(found.parts),
        "lieutenants": [[key, _sizes(parts)] for key, parts in found.largest()],
        "isComplete": found.is_complete,
    }
    _keep(settings.DATA_FOLDER_ID, facts, began)


def _sizes(parts: dict[str, folders.Size]) -> dict[str, list[int]]:
    return {name: [size.size_bytes, size.files] for name, size in parts.items()}


def _keep(subject: str, facts: Json, began: float) -> None:
    Measurement.objects.update_or_create(
        subject=subject,
        defaults={
            "host": settings.HOST,
            "at": clock.now(),
            "seconds": round(time.monotonic() - began, 3),
            "facts": facts,
        },
    )


def _measure_for_call() -> Result:
    measure()
    return {}


def _measured(_result: Result) -> list[Line]:
    return [(True, "Measured.")]
