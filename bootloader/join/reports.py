"""Reports of boot scripts: each step of each run, with its duration and result."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from django.db import transaction

from bootloader.models.joining import BootReport, ReportStatus
from reef_site.common import clock, events
from reef_site.common.text import to_storable
from versconfig.screening import sources
from vmtree.models import Node

MAX_OUTPUT = 8 << 10
# Per VM; older ones are deleted.
MAX_REPORTS = 400
RETENTION = timedelta(days=30)

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
    now = clock.now()
    with transaction.atomic():
        row, made = BootReport.objects.select_for_update().get_or_create(
            vm_id=vm_id,
            run=report.run,
            step=report.step,
            defaults={"status": report.status, "began_at": _estimate_start(report), "at": now},
        )
        if made or report.status != ReportStatus.STARTED:
            row.status, row.at = report.status, now
            row.duration_ms, row.exit_status = report.duration_ms, report.exit_status
            row.output = masked_tail(vm_id, report.output)
            row.save(update_fields=["status", "at", "duration_ms", "exit_status", "output"])
        if made:
            _delete_old(vm_id)
        events.publish_nodes([vm_id])
    return row


def masked_tail(vm_id: str, output: str) -> str:
    """Return the end of an output as storable text, with secrets masked."""
    # Truncate after masking: half a secret would not be recognized.
    cover = sources.for_node(vm_id, recheck=True).cover
    shown = cover(_SECRETS.sub("(secret)", to_storable(output))).encode()
    return shown[-MAX_OUTPUT:].decode("utf-8", "ignore")


def sweep() -> None:
    """Delete old reports of VMs that are not members."""
    old = BootReport.objects.filter(at__lt=clock.now() - RETENTION)
    old.exclude(vm_id__in=Node.objects.active().values("vm_id")).delete()


def _estimate_start(report: StepReport) -> Any:
    """Estimate the start of the step from its reported duration."""
    lasted = timedelta(milliseconds=min(report.duration_ms or 0, 86_400_000))
    return clock.now() - lasted


def _delete_old(vm_id: str) -> None:
    newest = BootReport.objects.filter(vm_id=vm_id).order_by("-began_at", "-id")
    if surplus := list(newest.values_list("pk", flat=True)[MAX_REPORTS:]):
        BootReport.objects.filter(pk__in=surplus).delete()
