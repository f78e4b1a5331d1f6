"""Values of a request: its JSON body and its query. Each function names the field at fault."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from rest_framework.request import Request

from reef_site.common import clock
from reef_site.common.errors import BadInput

MAX_NUMBER = 1 << 53
# Longer digits are refused before they are converted.
_MAX_DIGITS = 18


def body_of(request: Request) -> dict[str, Any]:
    """Return the request's JSON object; empty if the body is another JSON value."""
    return request.data if isinstance(request.data, dict) else {}


def is_dry_run(request: Request) -> bool:
    """Return whether body or query say `dryRun`. Raises BadInput.

    One of the two is enough: a caller that contradicts itself must not change anything.
    """
    in_body = body_of(request).get("dryRun", False)
    in_query = set(request.query_params.getlist("dryRun"))
    if not isinstance(in_body, bool) or not in_query <= {"true", "false", "1", "0"}:
        raise BadInput("dryRun: must be true or false", "dryRun")
    return in_body or bool({"true", "1"} & in_query)


def query_flag(request: Request, name: str) -> bool:
    """Return whether the query says true; absent or empty is false. Raises BadInput."""
    given = request.query_params.get(name, "")
    if given not in ("", "true", "false", "1", "0"):
        raise BadInput(f"{name}: must be true or false", name)
    return given in ("true", "1")


def query_number(request: Request, name: str, *, most: int = MAX_NUMBER) -> int | None:
    """Return a whole number from the query; None if absent or empty. Raises BadInput."""
    given = request.query_params.get(name, "")
    if not given:
        return None
    if not _is_number(given) or int(given) > most:
        raise BadInput(f"{name}: must be a whole number from 0 to {most}", name)
    return int(given)


def query_limit(request: Request, *, most: int, default: int) -> int:
    """Return the page size from `?limit=`, 1 to `most`. Raises BadInput."""
    given = request.query_params.get("limit", "")
    if not given:
        return default
    if not _is_number(given) or not 1 <= int(given) <= most:
        raise BadInput(f"limit: must be a whole number from 1 to {most}", "limit")
    return int(given)


def query_cursor(request: Request, *older_names: str) -> int | None:
    """Return `?cursor=`, which is the `next` of an earlier page. Raises BadInput."""
    names = ("cursor", *older_names)
    return next((found for name in names if (found := query_number(request, name))), None)


def query_moment(request: Request, name: str) -> datetime | None:
    """Return a timestamp from the query; None if absent or empty. Raises BadInput."""
    given = request.query_params.get(name, "")
    return clock.parse_timestamp(given, name) if given else None


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= _MAX_DIGITS
