"""Reports of boot scripts: each step of each run, with its duration and result."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.conf import settings
from django.db import transaction

from bootloader.models.joining import BootReport, ReportStatus
from reef_site.common import clock, events
from reef_site.common.retention import delete_in_batches
from reef_site.common.text import to_storable
from versconfig.screening import sources
from vmtree.models import Node

MAX_OUTPUT = 8 << 10
# Per VM; older ones are deleted.
MAX_REPORTS = 400

# The fields that each report but a late "started" sets.
_REPORTED = ("status", "at", "duration_ms", "exit_status", "output")
# Our tokens, and anything after the word "bearer".
_SECRETS = re.compile(r"\breef(?:join)?_[A-Za-z0-9_-]{20,}|(?i:(?<=bearer )\S{8,})")


@dataclass(frozen=True)
class StepReport:
    """One report about a step of a run."""

    run: str
    step: str
    status: str
    duration_ms: int | None = None
    exit_status: int | None = None
    output: str = ""


def record(vm_id: str, report: StepReport) -> BootReport:
    """Store a report and publish the change.

    Idempotent; a late "started" does not reopen an ended step.
    """
    now, output = clock.now(), masked_tail(vm_id, report.output)
    with transaction.atomic():
        new = new_row(vm_id, report, now)
        new.output = output
        row, made = BootReport.objects.select_for_update().get_or_create(
            vm_id=vm_id,
            run=report.run,
            step=report.step,
            defaults={name: getattr(new, name) for name in ("began_at", *_REPORTED)},
        )
        if made:
            delete_old(vm_id)
        elif names := assign(row, report, output, now):
            row.save(update_fields=names)
        events.publish_nodes([vm_id])
    return row


def new_row(vm_id: str, report: StepReport, now: datetime) -> BootReport:
    """Return the row of the first report about a step, without its output."""
    # Its start is estimated from the duration.
    lasted = timedelta(milliseconds=min(report.duration_ms or 0, 86_400_000))
    row = BootReport(vm_id=vm_id, run=report.run, step=report.step, began_at=now - lasted)
    _set_reported(row, report, "", now)
    return row


def assign(row: BootReport, report: StepReport, output: str, now: datetime) -> Sequence[str]:
    """Set what a further report about a step says; return the fields to be saved.

    A late "started" changes nothing.
    """
    if report.status == ReportStatus.STARTED:
        return ()
    _set_reported(row, report, output, now)
    return _REPORTED


def _set_reported(row: BootReport, report: StepReport, output: str, now: datetime) -> None:
    row.status, row.at, row.output = report.status, now, output
    row.duration_ms, row.exit_status = report.duration_ms, report.exit_status


def masked_tail(vm_id: str, output: str) -> str:
    """Return the end of an output as storable text, with secrets masked."""
    # Truncate after masking: half a secret would not be recognized.
    cover = sources.for_node(vm_id, recheck=True).cover
    shown = cover(_SECRETS.sub("(secret)", to_storable(output))).encode()
    return shown[-MAX_OUTPUT:].decode("utf-8", "ignore")


def sweep() -> int:
    """Delete old reports of VMs that are not members; return how many."""
    old = BootReport.objects.filter(at__lt=clock.now() - timedelta(days=settings.BOOT_DAYS))
    return delete_in_batches(old.exclude(vm_id__in=Node.objects.active().values("vm_id")))


def delete_old(vm_id: str) -> None:
    """Delete all but the newest reports of this VM."""
    newest = BootReport.objects.filter(vm_id=vm_id).order_by("-began_at", "-id")
    if surplus := list(newest.values_list("pk", flat=True)[MAX_REPORTS:]):
        BootReport.objects.filter(pk__in=surplus).delete()
