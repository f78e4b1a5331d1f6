"""Reports of boot scripts: each step of each run, with its duration and result."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from django.db import transaction

from bootloader.models.joining import BootReport, ReportStatus
from reef_site.common import clock, events
from reef_site.common.errors import BadInput
from reef_site.common.text import to_storable
from versconfig.screening import sources
from vmtree.models import Node

FIELDS = ("run", "step", "status", "durationMs", "exitStatus", "output")
MAX_OUTPUT = 8 << 10
# Per VM; older ones are deleted.
MAX_REPORTS = 400
RETENTION = timedelta(days=30)
_MAX_NUMBER = 10**12

_RUN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,63}")
_STEP = re.compile(r"[a-z0-9][a-z0-9._-]{0,39}")
# Our tokens, and anything after the word "bearer".
_SECRETS = re.compile(r"\breef(?:join)?_[A-Za-z0-9_-]{20,}|(?i:(?<=bearer )\S{8,})")


@dataclass(frozen=True)
class StepReport:
    """One report about a step of a run."""

    run: str
    step: str
    status: ReportStatus
    duration_ms: int | None = None
    exit_status: int | None = None
    output: str = ""


def parse_report(body: object) -> StepReport:
    """Parse a report from request JSON. Raise BadInput."""
    data: Mapping[str, Any] = body if isinstance(body, dict) else {}
    status = data.get("status")
    if status not in ReportStatus.values:
        raise BadInput(f"status: must be one of {', '.join(ReportStatus.values)}", "status")
    output = data.get("output")
    if output is not None and not isinstance(output, str):
        raise BadInput("output: must be a string", "output")
    return StepReport(
        run=_name(data, "run", _RUN),
        step=_name(data, "step", _STEP),
        status=ReportStatus(status),
        duration_ms=_number(data, "durationMs", minimum=0),
        exit_status=_number(data, "exitStatus", minimum=-_MAX_NUMBER),
        output=output or "",
    )


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


def _name(data: Mapping[str, Any], field: str, form: re.Pattern[str]) -> str:
    value = data.get(field)
    if value is None or value == "":
        raise BadInput(f"{field} is required", field)
    if not isinstance(value, str) or not form.fullmatch(value):
        raise BadInput(f"{field}: has characters or a length that it cannot have", field)
    return value


def _number(data: Mapping[str, Any], field: str, *, minimum: int) -> int | None:
    value = data.get(field)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not minimum <= value <= _MAX_NUMBER:
        raise BadInput(f"{field}: must be a whole number from {minimum}", field)
    return value
