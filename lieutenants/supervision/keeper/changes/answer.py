"""Answers one request about the changes in a folder."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import signal
import time

from ..json_lines import pack, parse_object
from ..pipes import read_all
from . import bases, heads, listing, names, one_file
from .git import Failed, Git, Problem

TYPE_CHECKING = False  # importing typing would cost a megabyte
if TYPE_CHECKING:
    from typing import Any

MAX_ANSWER_BYTES = 4 << 20
_MAX_SECONDS, _MAX_DELAY = 60.0, 60.0
_PATH = "/usr/local/bin:/usr/bin:/bin"


def main() -> int:
    """Read the request from stdin and print the answer."""
    reply(parse_object(read_all(0)) or {})
    return 0


def reply(request: dict[str, Any]) -> None:
    """Print the answer to this request."""
    seconds = min(float(request.get("seconds") or 10.0), _MAX_SECONDS)
    # Whoever has asked may have ended, with nobody left to end us.
    signal.alarm(int(seconds) + 5)
    os.umask(0o077)
    with contextlib.suppress(OSError):
        os.nice(5)
    for limit, value in ((resource.RLIMIT_CORE, 0), (resource.RLIMIT_CPU, int(seconds) + 5)):
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(limit, (value, value))
    data = pack(answer(request, time.monotonic() + seconds))
    if len(data) > MAX_ANSWER_BYTES:
        data = pack({"problem": "large", "detail": ""})
    while data:
        data = data[os.write(1, data) :]


def answer(request: dict[str, Any], deadline: float) -> dict[str, Any]:
    """Return the answer, or the problem that prevents it."""
    folder = os.path.expanduser(str(request.get("folder")))
    try:
        heads.check_folder(folder)
        path = os.environ.get("PATH") or _PATH
        program = shutil.which("git", path=path)
        if program is None:
            raise Problem("no_git")
        inner = str(request.get("repository") or "")
        if inner:
            folder = os.path.join(folder, os.fsdecode(names.parse_path(inner)))
            heads.check_folder(folder)
        folder = os.path.realpath(folder)
        with Git(folder, program, path, deadline) as git:
            return _answer(git, request, upward=bool(request.get("upward")) and not inner)
    except Problem as trouble:
        facts: dict[str, Any] = {"problem": trouble.code, "detail": trouble.detail}
        if trouble.code == "no_repository":
            facts["inner"] = heads.inner_repositories(folder)
        return facts
    except Failed as trouble:
        return {"problem": "broken", "detail": str(trouble)}
    except (ValueError, OSError) as trouble:
        return {"problem": "unreadable", "detail": str(trouble)[:300]}


def _answer(git: Git, request: dict[str, Any], *, upward: bool) -> dict[str, Any]:
    repository = heads.find_repository(git, upward=upward)
    facts = repository.facts()
    if request.get("op") == "head":
        return facts
    skew = _skew(float(request.get("now") or time.time()))
    wanted = dict(request.get("base") or {})
    if wanted.get("at"):
        wanted["at"] = float(wanted["at"]) + skew
    base = bases.resolve(repository, wanted)
    facts["base"] = {"commit": base.commit, "note": base.note}
    if request.get("op") == "file":
        path = names.parse_path(str(request.get("path")))
        old_path = names.parse_path(str(request["old_path"])) if request.get("old_path") else b""
        limit = int(request.get("max_lines") or one_file.MAX_LINES)
        return {**facts, **one_file.show_file(repository, base, path, old_path, limit)}
    since = request.get("since")
    since = None if since is None else float(since) + skew
    return {**facts, **listing.list_changes(repository, base, since)}


def _skew(now: float) -> float:
    """Return how much later our clock is than the one that said `now`, as far as is certain.

    The request was on its way for a while, which must not count.
    """
    seen = time.time() - now
    return seen if seen < 0 or seen > _MAX_DELAY else 0.0
