"""Accepted names in query and body of a route of the API; others are refused.

A handler declares them by `@endpoint`; without it, it takes none. Where agents in the field may
send more than older servers read, `lenient` refuses only what is nearly one of the known names.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from rest_framework.exceptions import ParseError
from rest_framework.permissions import SAFE_METHODS, BasePermission
from rest_framework.request import Empty, Request

from reef_site.common.text import clip

MAX_SHOWN = 60
# Unknown names that a lenient route compares with its own: each takes a tenth of a millisecond.
MAX_UNKNOWN = 200
# How alike two names are, from 0 to 1: one to propose, and one that cannot be meant otherwise.
PROPOSED, SURE = 0.7, 0.8

Handler = TypeVar("Handler", bound=Callable[..., Any])


@dataclass(frozen=True)
class Names:
    """The names that one handler accepts."""

    query: tuple[str, ...] = ()
    body: tuple[str, ...] = ()
    lenient: bool = False
    # The route looks at neither, as for a path that does not exist.
    anything: bool = False


NOTHING = Names()


def takes_anything(handler: Handler) -> Handler:
    """Declare that a handler looks at neither query nor body, and that both may hold anything."""
    handler.takes = Names(anything=True)  # type: ignore[attr-defined]
    return handler


class OnlyKnownNames(BasePermission):
    """Refuses a query or body with a name that the route does not take, as 400."""

    def has_permission(self, request: Request, view: Any) -> bool:
        """True, or ParseError that says the name and what the route takes."""
        handler = _handler(request, view)
        names: Names = getattr(handler, "takes", NOTHING)
        if handler is None or names.anything:
            return True
        check(request.query_params, names.query, place="query", lenient=names.lenient)
        if request.method not in SAFE_METHODS and (names.body or not names.lenient):
            check(_fields(request), names.body, place="body", lenient=names.lenient)
        return True


def _fields(request: Request) -> Iterable[str]:
    """Return the names in the body's object.

    What is no JSON is left to the handler, which may look at other things first, or not read it.
    """
    if getattr(request, "_full_data", Empty) is Empty:
        # Nobody has parsed it yet. It is kept, so that it can be parsed again.
        request._request.body  # noqa: B018
    try:
        data = request.data
    except ParseError:
        for name in ("_data", "_files", "_full_data", "_stream"):
            setattr(request, name, Empty)
        return ()
    return data if isinstance(data, dict) else ()


def _handler(request: Request, view: Any) -> Any:
    """Return the method that will answer; None if the view has none for this request."""
    method = (request.method or "").lower()
    if method == "options":
        return None
    return getattr(view, getattr(view, "action", None) or method, None)


def check(given: Iterable[str], known: Sequence[str], *, place: str, lenient: bool = False) -> None:
    """Raise ParseError for the first given name that is not known, or for too many of them."""
    unknown = (name for name in given if name not in known)
    for count, name in enumerate(unknown):
        if count == MAX_UNKNOWN:
            raise ParseError(f"{place}: more than {MAX_UNKNOWN} names are not known")
        if text := problem(name, known, place=place, lenient=lenient):
            raise ParseError(text)


def problem(name: str, known: Sequence[str], *, place: str, lenient: bool = False) -> str:
    """Say what is wrong with a name that is not known; empty if a lenient route passes over it."""
    near = nearest(name, known, SURE if lenient else PROPOSED)
    if lenient and not near:
        return ""
    shown = clip(name, MAX_SHOWN)
    proposal = f"did you mean {near}? This" if near else "this"
    taken = f"{', '.join(known)} in its {place}" if known else f"nothing in its {place}"
    return f"{shown}: not known; {proposal} route takes {taken}"


def nearest(name: str, known: Sequence[str], alike: float = PROPOSED) -> str:
    """Return the known name that is most like this one; empty if none is."""
    plain = {_plain(each): each for each in known}
    found = difflib.get_close_matches(_plain(name[:MAX_SHOWN]), plain, n=1, cutoff=alike)
    return plain[found[0]] if found else ""


def _plain(name: str) -> str:
    """The name without what is most often written otherwise."""
    return name.replace("_", "").replace("-", "").lower()
