"""Moments as they go over the wire: ISO in UTC with three digits of milliseconds."""

from __future__ import annotations

from datetime import UTC, datetime

from django.utils import timezone

from vmtree.exceptions import BadInput


def js_date(moment: datetime) -> str:
    """UTC with three digits of milliseconds, such as 2026-11-22T06:21:09.098Z."""
    moment = moment.astimezone(UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond // 1000:03d}Z"


def now() -> datetime:
    """This moment in whole milliseconds, so that what the wire says is what the row holds."""
    moment = timezone.now()
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000)


_FIRST_YEAR, _LAST_YEAR = 1000, 9998


def moment_of(text: str, field: str) -> datetime:
    """The moment an ISO text names; without an offset it is UTC. Raises BadInput."""
    try:
        # A plus sign in a query is read as a blank.
        moment = datetime.fromisoformat(text.strip().replace(" ", "+") if "T" in text else text)
        # Far ends of the calendar have no UTC, and none in the time zone of pages.
        moment = moment.replace(tzinfo=moment.tzinfo or UTC).astimezone(UTC)
        if not _FIRST_YEAR <= moment.year <= _LAST_YEAR:
            raise ValueError("out of range")
        return moment
    except (ValueError, OverflowError):
        raise BadInput(f"{field}: must be a time such as 2026-11-22T06:21:09.098Z", field) from None
