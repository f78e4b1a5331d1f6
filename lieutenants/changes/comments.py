"""Comments on lines of changes, sent as one message."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from lieutenants import services
from lieutenants.changes.questions import check_path
from lieutenants.models import Message
from reef_site.common.errors import BadInput
from reef_site.common.text import clip, is_storable

MAX_COMMENTS, MAX_TEXT, _MAX_QUOTE = 100, 4000, 500
_MAX_JSON = 1 << 20
_MAX_LINE = 10**9


@dataclass(frozen=True)
class Comment:
    """A comment on one line of a file; `side` is `old` for a line that was removed."""

    repository: str
    path: str
    side: str
    line: int
    quote: str
    text: str

    def as_text(self) -> str:
        """Return the comment as a part of the message."""
        what = ", a removed line" if self.side == "old" else ""
        quote = clip(" ".join(self.quote.splitlines()), _MAX_QUOTE)
        folder = f"{self.repository}/" if self.repository else ""
        return f"{folder}{self.path}:{self.line}{what}\n> {quote}\n{self.text.strip()}"


def parse(text: str) -> list[Comment]:
    """Return the comments of a JSON list. Raises BadInput."""
    try:
        given = json.loads(text) if len(text) <= _MAX_JSON else None
    except (ValueError, RecursionError):
        given = None
    if not isinstance(given, list) or not given:
        raise BadInput("comments: must be a list with at least one comment", "comments")
    if len(given) > MAX_COMMENTS:
        raise BadInput(f"comments: at most {MAX_COMMENTS}", "comments")
    return [_parse_one(each) for each in given]


def _parse_one(given: Any) -> Comment:
    if not isinstance(given, dict):
        raise BadInput("comments: each must be an object", "comments")
    path, side, line = given.get("path"), given.get("side"), given.get("line")
    quote, text = given.get("quote"), given.get("text")
    repository = given.get("repository") or ""
    if (
        not isinstance(path, str)
        or not path
        or not isinstance(repository, str)
        or side not in ("old", "new")
    ):
        raise BadInput("comments: each needs a path, and a side that is old or new", "comments")
    for each in filter(None, (path, repository)):
        check_path(each, "comments")
    if not isinstance(line, int) or isinstance(line, bool) or not 0 < line < _MAX_LINE:
        raise BadInput("comments: line must be a whole number", "comments")
    if not is_storable(text) or not text.strip() or len(text) > MAX_TEXT:
        raise BadInput(f"comments: each needs a text of 1 to {MAX_TEXT} characters", "comments")
    if not is_storable(quote):
        raise BadInput("comments: quote must be text", "comments")
    return Comment(repository, path, side, line, quote, text)


def send(name: str, comments: list[Comment], *, key: str, actor: object) -> Message:
    """Send all comments as one message; a repeated key sends nothing again.

    Raises what `services.send` does.
    """
    count = "One comment" if len(comments) == 1 else f"{len(comments)} comments"
    parts = [f"{count} on the changes in your folder:", *(each.as_text() for each in comments)]
    message, _ = services.send(name, "\n\n".join(parts), key=key, actor=actor)
    return message
