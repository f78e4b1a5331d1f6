"""Requests and responses of `GET /usage`, in the wire format."""

from __future__ import annotations

from datetime import timedelta, tzinfo
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from bootloader.grants.serializers import BudgetResponse
from lieutenants.transcript.serializers import UsageResponse
from reef_site.common.api.fields import Choice, Number, Text, Timestamp
from reef_site.common.api.serializers import Query, ResponseBody
from reef_site.common.errors import BadInput
from vmtree.fields import AnyVM

MAX_SPAN = timedelta(days=400)
MAX_SPAN_OF_HOURS = timedelta(days=32)
GROUPS = ("day", "hour", "lieutenant", "model", "subtree")


class ZoneName(Text):
    """The name of a time zone."""

    def to_internal_value(self, data: Any) -> tzinfo:  # type: ignore[override]
        name = super().to_internal_value(data)
        try:
            return ZoneInfo(name)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            self.refuse("must be a time zone, such as Europe/Berlin")


class UsageQuery(Query):
    by = Choice(GROUPS, default="day", help_text="What the rows stand for.")
    since = Timestamp(help_text="Absent: six days before today begins.")
    until = Timestamp(help_text="Absent: now.")
    zone = ZoneName(length=64, help_text="Whose days and hours; absent: UTC.")
    below = AnyVM(help_text="Only this VM and its descendants; subtrees are those of its children.")


class UsageRowResponse(UsageResponse):
    """The usage of one day, hour, lieutenant, model or subtree."""

    key = Text(help_text="Date, time, id of a VM, or `provider/model`.")
    name = Text(allow_null=True, help_text="Of a lieutenant or the VM of a subtree.")


class UsageReportResponse(ResponseBody):
    """Usage by quarters of an hour, added up; `since` and `until` are rounded to these."""

    by = Choice(GROUPS)
    zone = Text()
    since = Timestamp()
    until = Timestamp()
    rows = UsageRowResponse(many=True)
    total = UsageResponse()
    ratePerHour = Number(help_text="Dollars an hour, from about the last hour.")
    budget = BudgetResponse(
        allow_null=True, help_text="The tightest one that limits the caller; null: no limit."
    )

    example = {
        "by": "day",
        "zone": "Europe/Berlin",
        "since": "2026-11-21T23:00:00.000Z",
        "until": "2026-11-22T06:21:09.098Z",
        "rows": [
            {
                "key": "2026-11-22",
                "name": None,
                "input": 1200,
                "output": 34,
                "cacheRead": 0,
                "cacheWrite": 0,
                "cost": 0.0123,
                "calls": 1,
            }
        ],
        "total": {
            "input": 1200,
            "output": 34,
            "cacheRead": 0,
            "cacheWrite": 0,
            "cost": 0.0123,
            "calls": 1,
        },
        "ratePerHour": 0.0113,
        "budget": None,
    }


def check_span(by: str, span: timedelta) -> None:
    """Raise BadInput if a report would be too long."""
    most = MAX_SPAN_OF_HOURS if by == "hour" else MAX_SPAN
    if span > most:
        raise BadInput(f"since: at most {most.days} days before `until`, by {by}", "since")
    if span < timedelta(0):
        raise BadInput("since: must not be after `until`", "since")
