"""The declaration of one endpoint: its query, body, responses and errors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from reef_site.common.api.serializers import Body, Query, ResponseBody
from reef_site.common.request_names import Names

Handler = TypeVar("Handler", bound=Callable[..., Any])
# A response: its fields, or the media type of what is not JSON; several of these if the request
# selects one; None for an empty response.
Content = type[ResponseBody] | str | tuple[type[ResponseBody] | str, ...] | None


@dataclass(frozen=True)
class Endpoint:
    """Declaration of a handler. `errors` maps a status to an example of its sentence."""

    query: type[Query] | None = None
    body: type[Body] | None = None
    responses: Mapping[int, Content] = field(default_factory=dict)
    errors: Mapping[int, str] = field(default_factory=dict)
    names: Names = field(default_factory=Names)


def endpoint(
    *,
    query: type[Query] | None = None,
    body: type[Body] | None = None,
    response: Content = None,
    status: int = 200,
    more_responses: Mapping[int, Content] | None = None,
    errors: Mapping[int, str] | None = None,
    lenient: bool = False,
    ignores_unknown: bool = False,
) -> Callable[[Handler], Handler]:
    """Declare a handler of the API.

    Names that neither `query` nor `body` has are refused. With `lenient`, only names that are
    nearly one of theirs are refused; with `ignores_unknown`, no name is. The handler calls `parse`
    of both when it is their turn, so that the order of its checks is its own.
    """
    names = Names(
        query.names() if query else (),
        body.names() if body else (),
        lenient,
        anything=ignores_unknown,
    )
    declared = Endpoint(
        query, body, {status: response, **(more_responses or {})}, errors or {}, names
    )

    def declare(handler: Handler) -> Handler:
        handler.takes = names  # type: ignore[attr-defined]
        handler.endpoint = declared  # type: ignore[attr-defined]
        return handler

    return declare
