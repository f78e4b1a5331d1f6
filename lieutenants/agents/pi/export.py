"""A session as a page of pi's own making, by `pi --export`.

The session file may hold secrets, so pi gets a copy in which they are covered, in an empty home,
without the agent's settings and extensions. It only formats: the agent need not run.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import signal
import stat
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import orjson
from django.conf import settings

from lieutenants.agents.pi import program
from lieutenants.agents.pi.check import agent_environment
from lieutenants.exceptions import ExportFailed, NotSupported
from lieutenants.isolation.homes import home_of
from lieutenants.models import Lieutenant
from versconfig.screening.screen import Screen

logger = logging.getLogger(__name__)

TIMEOUT_SECONDS = 60.0
MAX_BYTES = 50_000_000
# One at a time: each needs a Node with the whole session in memory.
_turn = threading.Lock()
_HEAD = re.compile(rb"<head[^>]*>", re.IGNORECASE)
# The page has scripts of its own; wherever it is opened, it loads nothing.
_POLICY = (
    b"default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:; "
    b"font-src data:"
)
_META = b'<meta http-equiv="Content-Security-Policy" content="' + _POLICY + b'">'


def export_html(lieutenant: Lieutenant, screen: Screen) -> bytes:
    """Return the lieutenant's session as HTML. Raises NotSupported, ExportFailed, AgentMissing."""
    if lieutenant.data_folder != settings.DATA_FOLDER_ID or not lieutenant.is_local:
        raise NotSupported(f"Its session is on host {lieutenant.host}; export it there")
    agent = program.find_agent()
    session = home_of(lieutenant.pk).session / lieutenant.session_name
    if not _turn.acquire(blocking=False):
        raise ExportFailed("Another session is being exported; try again soon")
    try:
        return _export(agent.argv(), session, screen)
    finally:
        _turn.release()


def _export(command: Sequence[str], session: Path, screen: Screen) -> bytes:
    with tempfile.TemporaryDirectory(prefix="reef-export-") as folder:
        source, target = Path(folder, "session.jsonl"), Path(folder, "session.html")
        with source.open("wb") as copy:
            copy.writelines(_covered_lines(session, screen))
        _run([*command, "--export", str(source), str(target)], folder)
        try:
            html = target.read_bytes()
        except OSError as error:
            logger.warning("pi made no page of %s: %s", session, error)
            raise ExportFailed("The agent's program made no page of this session") from None
    return _HEAD.sub(lambda found: found[0] + _META, html, count=1)


def _covered_lines(path: Path, screen: Screen) -> Iterator[bytes]:
    """Yield the lines of a session file with secrets covered, without unreadable ones."""
    try:
        # The folder belongs to the agent, which may have created a link or a pipe.
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise NotSupported(f"It has no session yet ({error.strerror})") from None
    with open(file, "rb") as lines:
        facts = os.fstat(file)
        if not stat.S_ISREG(facts.st_mode) or facts.st_nlink != 1:
            raise NotSupported("Its session file is not a file of its own")
        if facts.st_size > MAX_BYTES:
            text = f"Its session has {facts.st_size} bytes, at most {MAX_BYTES} are exported"
            raise NotSupported(text)
        for line in lines:
            with contextlib.suppress(orjson.JSONDecodeError):
                yield orjson.dumps(screen.cover_value(orjson.loads(line))) + b"\n"


def _run(command: list[str], folder: str) -> None:
    """Run pi with the environment of agents and an empty home. Raises ExportFailed."""
    quiet = {"PI_OFFLINE": "1", "PI_SKIP_VERSION_CHECK": "1", "PI_TELEMETRY": "0"}
    own = {"HOME": folder, "PI_CODING_AGENT_DIR": str(Path(folder, "agent"))}
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**agent_environment(), **own, **quiet},
            cwd=folder,
            start_new_session=True,
        )
    except OSError as error:
        raise ExportFailed(f"The agent's program cannot be run ({error.strerror})") from None
    try:
        process.wait(TIMEOUT_SECONDS)
    except subprocess.TimeoutExpired:
        raise ExportFailed(f"The export did not end within {TIMEOUT_SECONDS:g} s") from None
    finally:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
