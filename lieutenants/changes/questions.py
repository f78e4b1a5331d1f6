"""A question about the changes of a lieutenant, and the request for git that it becomes."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any, Self

from django.db.models import TextChoices

from lieutenants.models import Lieutenant
from lieutenants.states import MessageState
from lieutenants.supervision.keeper.changes import names
from reef_site.common import clock
from reef_site.common.errors import BadInput, Conflict
from reef_site.common.text import is_storable

GIT_SECONDS = 12.0
MAX_REV = 200
FIRST_LINES, MAX_LINES = 500, 5000
# An agent acts on a message a little before its journal is read.
_SLACK = timedelta(seconds=2)
# What git allows in names of branches, and the suffixes ~ ^ @{…}.
_REV = re.compile(r"(?!-)(?!.*\.\.)[^\s\x00-\x1f\x7f:?*\[\\]+")

Json = dict[str, Any]


class Against(TextChoices):
    """The kinds of states that a folder can be compared with."""

    START = "start", "its start"
    MESSAGE = "message", "the last message"
    HEAD = "head", "the last commit"
    COMMIT = "commit", "a branch or commit"


@dataclass(frozen=True)
class Question:
    """A request for changes of all files, or of one (`path`). Raises BadInput."""

    against: str = Against.START
    commit: str = ""
    repository: str = ""
    path: str = ""
    old_path: str = ""
    lines: int = FIRST_LINES

    def __post_init__(self) -> None:
        if self.against not in Against.values:
            raise BadInput(f"against: must be one of {', '.join(Against.values)}", "against")
        if self.against == Against.COMMIT:
            if not self.commit:
                raise BadInput("commit: is required; a branch, tag or commit", "commit")
            if len(self.commit) > MAX_REV or not _REV.fullmatch(self.commit):
                raise BadInput("commit: is not a name of a branch, tag or commit", "commit")
        elif self.commit:
            raise BadInput("commit: only with against=commit", "commit")
        for field, text in (
            ("repository", self.repository),
            ("path", self.path),
            ("oldPath", self.old_path),
        ):
            if text:
                check_path(text, field)
        if not 1 <= self.lines <= MAX_LINES:
            raise BadInput(f"lines: must be a whole number from 1 to {MAX_LINES}", "lines")

    @classmethod
    def parse(cls, values: Json) -> Self:
        """Return the question with these fields, as `as_json` returns them."""
        return cls(**values)

    def as_json(self) -> Json:
        return asdict(self)


def check_path(text: str, field: str) -> None:
    """Raise BadInput unless this is a relative path, in git's quotes if it is odd."""
    try:
        if not is_storable(text):
            raise ValueError("has characters that are no text")
        names.parse_path(text)
    except ValueError as error:
        raise BadInput(f"{field}: {error}", field) from None


@dataclass(frozen=True)
class Base:
    """The state that is compared with: the request's `base`, and its time, if it has one."""

    request: Json
    at: datetime | None = None


def base_of(lieutenant: Lieutenant, question: Question) -> Base:
    """Return what the question compares with. Raises Conflict if there was no message yet."""
    if question.against == Against.COMMIT:
        return Base({"kind": "rev", "rev": question.commit})
    if question.against == Against.HEAD:
        return Base({"kind": "head"})
    if question.against == Against.MESSAGE:
        at = last_message_at(lieutenant)
        return Base({"kind": "time", "at": at.timestamp()}, at)
    at = lieutenant.start_noted_at or lieutenant.created_at
    # The commit is that of the folder itself, not of a repository below it.
    if lieutenant.start_commit and not question.repository:
        commit = {"kind": "commit", "commit": lieutenant.start_commit}
        return Base({**commit, "at": at.timestamp()}, at)
    return Base({"kind": "time", "at": at.timestamp()}, at)


def last_message_at(lieutenant: Lieutenant) -> datetime:
    """Return when the agent got its newest message. Raises Conflict without any."""
    taken = lieutenant.messages.filter(state=MessageState.ACCEPTED, taken_up_at__isnull=False)
    row = taken.order_by("-taken_up_at", "-id").first()
    if row is None or row.taken_up_at is None:
        raise Conflict("Its agent has not got a message yet. Compare with its start instead.")
    return max(row.created_at, row.taken_up_at - _SLACK)


def request_for(lieutenant: Lieutenant, question: Question, base: Base) -> Json:
    """Return the request of `keeper.changes`."""
    return {
        "op": "file" if question.path else "list",
        **place_of(lieutenant),
        "repository": question.repository,
        "base": base.request,
        "since": base.at.timestamp() if base.at else None,
        "now": clock.now().timestamp(),
        "path": question.path,
        "old_path": question.old_path,
        "max_lines": question.lines,
    }


def place_of(lieutenant: Lieutenant) -> Json:
    """Return the folder, and whether its repository may be in a folder above.

    That of a lieutenant without a folder of its choice never is: reef's own might be above.
    """
    upward = not lieutenant.folder.endswith(f"/{lieutenant.pk}/workspace")
    return {"folder": lieutenant.folder, "upward": upward, "seconds": GIT_SECONDS}
