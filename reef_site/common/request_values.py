"""Values of a request that no field of `common.api` parses, and choices outside of requests."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rest_framework.request import Request

from reef_site.common.errors import BadInput


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


def choice_of(value: object, name: str, choices: Iterable[str]) -> str:
    """Return the value, which must be one of `choices`. Raises BadInput, which names them."""
    for choice in (known := tuple(choices)):
        if value == choice:
            return choice
    raise BadInput(f"{name}: must be one of {', '.join(known)}", name)
