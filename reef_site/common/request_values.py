"""Values of a request: its JSON body and its query. Each function names the field at fault."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from rest_framework.request import Request

from reef_site.common.errors import BadInput
from reef_site.common.text import is_storable, parse_number

MAX_NUMBER = 1 << 53


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
    number = parse_number(given)
    if number is None or number > most:
        raise BadInput(f"{name}: must be a whole number from 0 to {most}", name)
    return number


def query_limit(request: Request, *, most: int, default: int) -> int:
    """Return the page size from `?limit=`, 1 to `most`. Raises BadInput."""
    given = request.query_params.get("limit", "")
    if not given:
        return default
    number = parse_number(given)
    if number is None or not 1 <= number <= most:
        raise BadInput(f"limit: must be a whole number from 1 to {most}", "limit")
    return number


def query_cursor(request: Request, *older_names: str) -> int | None:
    """Return `?cursor=`, which is the `next` of an earlier page. Raises BadInput."""
    names = ("cursor", *older_names)
    return next((found for name in names if (found := query_number(request, name))), None)


# -- values of a JSON body -----------------------------------------------------------------------


def text_of(
    value: object,
    name: str,
    *,
    length: int | None = None,
    strip: bool = True,
    optional: bool = False,
    accepts: Callable[[str], bool] = is_storable,
) -> str:
    """Return the text of at most `length` characters, if `accepts` takes it. Raises BadInput.

    With `optional`, null is an empty text.
    """
    if value is None and optional:
        return ""
    if not isinstance(value, str):
        raise BadInput(f"{name}: must be a string", name)
    text = value.strip() if strip else value
    if length is not None and len(text) > length:
        raise BadInput(f"{name}: at most {length} characters", name)
    if not accepts(text):
        raise BadInput(f"{name}: has characters that are no text", name)
    return text


def number_of(value: object, name: str, *, least: int = 0, most: int = MAX_NUMBER) -> int:
    """Return the whole number from `least` to `most`. Raises BadInput."""
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise BadInput(f"{name}: must be a whole number from {least} to {most}", name)
    return value


def flag_of(value: object, name: str) -> bool:
    """Return the boolean. Raises BadInput."""
    if not isinstance(value, bool):
        raise BadInput(f"{name}: must be true or false", name)
    return value


def choice_of(value: object, name: str, choices: Iterable[str]) -> str:
    """Return the value, which must be one of `choices`. Raises BadInput, which names them."""
    for choice in (known := tuple(choices)):
        if value == choice:
            return choice
    raise BadInput(f"{name}: must be one of {', '.join(known)}", name)
