"""A session as a page of pi's own making, by `pi --export`.

The session file may hold secrets, so pi gets a copy in which they are covered, and no keys. The
content is the agent's, so pi is isolated like an agent, in an empty home without the agent's
settings and extensions. It only formats: the agent need not run.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import stat
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import orjson
from django.conf import settings

from lieutenants.agents.base import Program
from lieutenants.agents.pi.check import agent_environment
from lieutenants.agents.pi.session_files import read_lines
from lieutenants.exceptions import ExportFailed, NotSupported
from lieutenants.isolation.confined import run_confined
from lieutenants.isolation.homes import Home, allow_traversal, give_tree, home_of, remove_tree
from lieutenants.isolation.plan import Plan, make_plan
from lieutenants.models import Lieutenant
from reef_site.common.locks import FileLock
from versconfig.screening.screen import Screen

logger = logging.getLogger(__name__)

# For all steps together: a thread of the web server waits.
TIMEOUT_SECONDS = 10.0
MAX_BYTES = 50_000_000
# The page has the session in base64.
MAX_PAGE_BYTES = 2 * MAX_BYTES
_HEAD = re.compile(rb"<head(?:\s[^>]*)?>", re.IGNORECASE)
# The page has scripts of its own; wherever it is opened, it loads nothing.
_POLICY = (
    b"default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:; "
    b"font-src data:"
)
_META = b'<meta http-equiv="Content-Security-Policy" content="' + _POLICY + b'">'
# Variables by which the shims of version managers find Node; agents get them if listed.
_PASSED = (
    *("LANG", "LC_ALL", "ASDF_DIR", "ASDF_DATA_DIR", "FNM_DIR", "MISE_DATA_DIR", "NODENV_ROOT"),
    *("NVM_DIR", "VOLTA_HOME"),
)


def export_html(
    lieutenant: Lieutenant, screen: Screen, find_program: Callable[[], Program]
) -> bytes:
    """Return the lieutenant's session as HTML.

    Raises NotSupported, ExportFailed, IsolationUnavailable, and what `find_program` raises.
    """
    if lieutenant.data_folder != settings.DATA_FOLDER_ID or not lieutenant.is_local:
        raise NotSupported(f"Its session is on host {lieutenant.host}; export it there")
    session = home_of(lieutenant.pk).session / lieutenant.session_name
    if not os.path.exists(session):
        raise NotSupported("It has no session yet")
    program = find_program()
    end = time.monotonic() + TIMEOUT_SECONDS
    settings.LIEUTENANTS_DIR.mkdir(mode=0o700, parents=True, exist_ok=True)
    # One at a time, over all processes: each needs a Node with the whole session in memory.
    lock = FileLock(settings.LIEUTENANTS_DIR / ".export.lock")
    if not lock.try_take():
        raise ExportFailed("Another session is being exported; try again soon")
    try:
        with _empty_home() as home:
            copy = home.session / "session.jsonl"
            with copy.open("xb") as file:
                file.writelines(_covered_lines(session, screen, end))
            return _with_policy(_make_page(home, copy, program, end))
    finally:
        lock.release()


@contextlib.contextmanager
def _empty_home() -> Iterator[Home]:
    """Create the folders of one export, beside those of the lieutenants, and remove them again."""
    home = Home(settings.LIEUTENANTS_DIR.resolve() / ".export")
    _remove(home)
    home.root.mkdir()
    # The system user that pi runs as must be able to enter it.
    home.root.chmod(0o711)
    try:
        for folder in home.agents:
            folder.mkdir(mode=0o700)
        home.prompt.touch(mode=0o600)
        yield home
    finally:
        _remove(home)


def _remove(home: Home) -> None:
    if home.root.exists():
        remove_tree(home.root)


def _covered_lines(path: Path, screen: Screen, end: float) -> Iterator[bytes]:
    """Yield the lines of a session file with secrets covered, without unreadable ones."""
    try:
        with _opened(path) as (file, size):
            if size > MAX_BYTES:
                text = f"Its session has {size} bytes, at most {MAX_BYTES} are exported"
                raise NotSupported(text)
            for line, _, _ in read_lines(file, size):
                if time.monotonic() > end:
                    raise ExportFailed(_late())
                if covered := _covered(line or b"", screen):
                    yield covered + b"\n"
    except OSError as error:
        raise NotSupported(f"It has no session yet ({error.strerror})") from None


def _covered(line: bytes, screen: Screen) -> bytes:
    """Return a line with secrets covered; empty if it is unreadable or nested too deeply."""
    try:
        return orjson.dumps(screen.cover_value(orjson.loads(line)))
    except (ValueError, TypeError, RecursionError):
        return b""


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[tuple[int, int]]:
    """Open a file in an agent's folder; yield descriptor and size. Raises OSError, NotSupported.

    The agent may have created a link, a pipe or a folder instead.
    """
    file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        facts = os.fstat(file)
        if not stat.S_ISREG(facts.st_mode) or facts.st_nlink != 1:
            raise NotSupported("Its session file is not a file of its own")
        yield file, facts.st_size
    finally:
        os.close(file)


def _make_page(home: Home, source: Path, program: Program, end: float) -> bytes:
    """Return the page that pi makes of the copy. Raises ExportFailed, IsolationUnavailable."""
    target = home.workspace / "session.html"
    try:
        plan = make_plan(home, home.workspace, program)
        _give_folders(home, plan)
        run_confined(
            plan,
            [*program.argv, "--export", str(source), str(target)],
            env=_environment(home, plan),
            cwd=home.workspace,
            seconds=max(0.0, end - time.monotonic()),
            max_file_bytes=MAX_PAGE_BYTES,
        )
    except subprocess.TimeoutExpired:
        raise ExportFailed(_late()) from None
    except OSError as error:
        raise ExportFailed(f"The agent's program cannot be run ({error})") from None
    try:
        with _opened(target) as (file, size), open(file, "rb", closefd=False) as page:
            return page.read(min(size, MAX_PAGE_BYTES))
    except (OSError, NotSupported) as error:
        logger.warning("pi made no page of %s: %s", source, error)
        raise ExportFailed("The agent's program made no page of this session") from None


def _give_folders(home: Home, plan: Plan) -> None:
    """Give the folders to the user of the plan, as for the start of an agent."""
    if plan.uid is not None and "view" not in plan.rules:
        allow_traversal(home)
    if os.geteuid() == 0:
        for folder in home.agents:
            give_tree(folder, plan.uid or 0)


def _environment(home: Home, plan: Plan) -> dict[str, str]:
    """Return pi's whole environment: no keys of providers, no proxies."""
    given = agent_environment()
    return {
        **{name: given[name] for name in _PASSED if name in given},
        "PATH": plan.path,
        "HOME": str(home.user),
        "TMPDIR": str(home.tmp),
        "PI_CODING_AGENT_DIR": str(home.config),
        "PI_OFFLINE": "1",
        "PI_SKIP_VERSION_CHECK": "1",
        "PI_TELEMETRY": "0",
    }


def _with_policy(html: bytes) -> bytes:
    """Return the page with a policy that lets it load nothing. Raises ExportFailed."""
    page, count = _HEAD.subn(lambda found: found[0] + _META, html, count=1)
    if count != 1:
        raise ExportFailed("The agent's program made a page without a head")
    return page


def _late() -> str:
    return f"The export did not end within {TIMEOUT_SECONDS:g} s"
