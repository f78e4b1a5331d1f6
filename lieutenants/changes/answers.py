"""Git's answer in a form that is certain: an agent could have made it up.

Every text is storable and screened, every list has a limit, and unknown problems have a sentence.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.conf import settings

from lieutenants.changes import diffs
from lieutenants.changes.questions import GIT_SECONDS, Base, Question
from lieutenants.models import Lieutenant
from reef_site.common import clock
from reef_site.common.errors import BadInput, Conflict, NotFound, ReefError
from reef_site.common.text import clip, escape_unprintable, to_storable
from versconfig.screening.screen import Screen

Json = dict[str, Any]
MAX_FILES, MAX_COMMITS, MAX_INNER = 1000, 50, 50
_MAX_LINES, _MAX_LINE, _SHOWN_LINE = 5001, 3000, 2000
_MAX_PATH, _MAX_DETAIL = 16_400, 300
_MAX_NUMBER = 1 << 40
STATUSES = ("added", "copied", "conflict", "deleted", "modified", "renamed", "untracked")
KINDS = ("file", "link", "other", "repository", "submodule")
_NOTES = {
    "cloned": "The repository was cloned later; compared with what was cloned.",
    "created": "The repository was created later; all of it is new.",
    "no_log": "git kept no record of earlier commits, so the last commit is compared with.",
    "lost": "The commit of that time is gone; compared with what git's log of commits says.",
    "ancestor": "Compared with the newest commit that both have in common.",
}


class NoRepository(Conflict):
    """The folder has no repository; `inner` are folders below it that have one."""

    def __init__(self, text: str, inner: list[str]) -> None:
        super().__init__(text)
        self.inner = inner


class TooSlow(ReefError):
    """Git needed too long."""

    status = 504


def result_of(
    lieutenant: Lieutenant, question: Question, base: Base, answer: Json, screen: Screen
) -> Json:
    """Return the result as stored and shown. Raises a ReefError for each problem."""
    if answer.get("problem"):
        raise problem_of(lieutenant, question, answer, screen)
    given = _object(answer.get("base"))
    facts = {
        "head": {"commit": _commit(answer.get("commit")), "branch": _name(answer.get("branch"))},
        "base": {
            "against": question.against,
            "name": question.commit,
            "commit": _commit(given.get("commit")),
            "at": clock.format_timestamp(base.at) if base.at else None,
            "note": _NOTES.get(_text(given.get("note"), 20), ""),
        },
        "repository": question.repository,
    }
    more = _one_file(answer, screen) if question.path else _listing(answer)
    covered: Json = screen.cover_value({**facts, **more})
    return covered


def problem_of(
    lieutenant: Lieutenant, question: Question, answer: Json, screen: Screen
) -> ReefError:
    """Return the error for a problem of git's."""
    code = _text(answer.get("problem"), 20)
    detail = escape_unprintable(screen.cover(_text(answer.get("detail"), _MAX_DETAIL)), 300)
    folder = clip(lieutenant.folder, 200)
    if question.repository:
        folder += f"/{clip(question.repository, 200)}"
    if code == "unknown_rev":
        text = f"commit: this repository has no commit '{question.commit}'"
        return BadInput(text, "commit")
    if code == "unchanged":
        return NotFound(f"path: '{clip(question.path, 200)}' does not differ")
    if code == "slow":
        return TooSlow(
            f"git did not answer within {GIT_SECONDS:g} s. The repository may be very large, or "
            "its machine is busy. Try again, or compare with the last commit."
        )
    if code == "no_repository":
        inner = [_text(each, _MAX_PATH) for each in _list(answer.get("inner"))[:MAX_INNER]]
        return NoRepository(_no_repository(folder, inner), [each for each in inner if each])
    return Conflict(_sentence(lieutenant, code, folder, detail))


def _no_repository(folder: str, inner: list[str]) -> str:
    text = f"{folder} is not a git repository, so there is nothing to compare with."
    if inner:
        names = ", ".join(clip(each, 100) for each in inner[:10])
        text += f" There are repositories below it: {names}."
    return text


def _sentence(lieutenant: Lieutenant, code: str, folder: str, detail: str) -> str:
    machine = settings.HOST if lieutenant.is_local else lieutenant.host
    sentences: dict[str, Callable[[], str]] = {
        "no_git": lambda: f"git is not installed on {machine}. Install it to see changes.",
        "gone": lambda: f"The folder {folder} does not exist any more.",
        "no_folder": lambda: f"{folder} is not a folder.",
        "not_started": lambda: "It has not been started yet, so nothing has changed.",
        "unreadable": lambda: f"The folder {folder} cannot be read: {detail}.",
        "bare": lambda: f"{folder} is a bare git repository: it has no files to compare.",
        "broken": lambda: f"The git repository of {folder} cannot be read. git says: {detail}",
        "no_room": lambda: f"On {machine}, no folder for temporary files can be written.",
        "large": lambda: "There is too much to show. Compare with the last commit, or one file.",
    }
    return sentences.get(code, lambda: "The changes cannot be read.")()


def _listing(answer: Json) -> Json:
    files = [_file(each) for each in _list(answer.get("files"))[:MAX_FILES]]
    commits = [_one_commit(each) for each in _list(answer.get("commits"))[: MAX_COMMITS + 1]]
    count = max(len(files), _number(answer.get("count")) or 0)
    return {
        "files": files,
        "count": count,
        "isCut": answer.get("cut") is True or count > len(files),
        "leftOut": _number(answer.get("earlier")) or 0,
        "isCounted": answer.get("counted") is not False,
        "added": sum(each["added"] or 0 for each in files),
        "deleted": sum(each["deleted"] or 0 for each in files),
        "commits": commits[:MAX_COMMITS],
        "hasMoreCommits": len(commits) > MAX_COMMITS,
    }


def _one_file(answer: Json, screen: Screen) -> Json:
    given = [_text(each, _MAX_LINE) for each in _list(answer.get("lines"))[:_MAX_LINES]]
    lines = [_cut(line) for line in diffs.cover(given, screen)]
    return {
        "file": _file(answer.get("file")),
        "lines": lines,
        "hasMore": answer.get("more") is True,
        "isCut": answer.get("cut") is True,
    }


def _cut(line: str) -> str:
    return line if len(line) <= _SHOWN_LINE else f"{line[:_SHOWN_LINE]}… (the line goes on)"


def _file(given: Any) -> Json:
    facts = _object(given)
    status, kind = _text(facts.get("status"), 20), _text(facts.get("kind"), 20)
    return {
        "path": _text(facts.get("path"), _MAX_PATH),
        "oldPath": _text(facts.get("old_path"), _MAX_PATH),
        "status": status if status in STATUSES else "modified",
        "kind": kind if kind in KINDS else "other",
        "added": _number(facts.get("added")),
        "deleted": _number(facts.get("deleted")),
        "isBinary": facts.get("binary") is True,
        "isCommitted": facts.get("committed") is True,
        "modes": _text(facts.get("modes"), 40),
        "mark": _text(facts.get("mark"), 60),
    }


def _one_commit(given: Any) -> Json:
    facts = _object(given)
    return {
        "commit": _commit(facts.get("commit")),
        "at": _number(facts.get("at")) or 0,
        "author": _text(facts.get("author"), 100),
        "subject": _text(facts.get("subject"), 200),
    }


def _object(value: Any) -> Json:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _text(value: Any, length: int) -> str:
    return to_storable(value[:length]) if isinstance(value, str) else ""


def _name(value: Any) -> str:
    return escape_unprintable(_text(value, 250), 250)


def _commit(value: Any) -> str:
    text = _text(value, 64)
    return text if text and not text.strip("0123456789abcdef") else ""


def _number(value: Any) -> int | None:
    is_number = isinstance(value, int) and not isinstance(value, bool)
    return min(value, _MAX_NUMBER) if is_number and value >= 0 else None
