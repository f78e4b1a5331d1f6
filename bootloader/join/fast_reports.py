"""Reports of boot scripts without output that the edge writes itself, see `write_routes`.

An output is left to Django: to mask secrets in it, a process must know them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from django.db.models import Count
from rest_framework.exceptions import ValidationError

from bootloader.join import reports
from bootloader.join.reports import StepReport
from bootloader.join.serializers import ReportBody
from bootloader.models import BootReport
from reef_site.common.asgi import JSONResponse
from reef_site.common.json_format import dumps
from reef_site.common.queries.rows import insert_rows, update_row
from registry.write_routes import Call, WriteRoute, Written, alone, write_routes

Key = tuple[str, str, str]


def parse(_key: str, data: Mapping[str, Any]) -> StepReport | None:
    """Return the report of a body; None to pass it on."""
    if not data.keys() <= set(ReportBody.names()) or data.get("output"):
        return None
    body = ReportBody(data=data)
    try:
        body.is_valid(raise_exception=True)
    except ValidationError:
        return None
    return StepReport(**body.validated_data)


def write(calls: Sequence[Call], now: datetime) -> Written:
    """See `reports.record`."""
    keys = [_key_of(call) for call in calls]
    runs = BootReport.objects.filter(
        vm_id__in={vm_id for vm_id, *_ in keys}, run__in={run for _, run, _ in keys}
    )
    rows = {(row.vm_id, row.run, row.step): row for row in runs.select_for_update().order_by("pk")}
    once, written, new = alone(keys), Written([]), list[BootReport]()
    for call, key in zip(calls, keys, strict=True):
        if call.owner is None or key not in once:
            written.responses.append(None)
            continue
        row = rows.get(key)
        if row is None:
            row = reports.new_row(key[0], call.command, now)
            new.append(row)
        elif names := reports.assign(row, call.command, "", now):
            update_row(row, names)
        response = {"vmId": row.vm_id, "run": row.run, "step": row.step, "status": row.status}
        written.responses.append(JSONResponse(200, dumps(response)))
        written.changed.add(row.vm_id)
    insert_rows(new)
    _delete_old({row.vm_id for row in new})
    return written


def _key_of(call: Call) -> Key:
    return call.owner.vm_id if call.owner else "", call.command.run, call.command.step


def _delete_old(vm_ids: set[str]) -> None:
    found = BootReport.objects.filter(vm_id__in=vm_ids).order_by().values_list("vm_id")
    many = found.annotate(count=Count("pk")).filter(count__gt=reports.MAX_REPORTS)
    for vm_id, _ in many if vm_ids else ():
        reports.delete_old(vm_id)


ROUTE = WriteRoute("POST", r"/bootloader/report/?", parse, write, has_other_tokens=True)


def register() -> None:
    """Add this route to those of the edge."""
    write_routes.register(ROUTE, key="bootloader.report")
