"""Check the agent's session file before a start.

An agent silently skips lines it cannot read, or starts a new session. So reef checks first: a file
that no agent can continue prevents the start, and lost lines are reported in the transcript.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from lieutenants.exceptions import SessionDamaged
from lieutenants.models import Lieutenant
from lieutenants.states import Outcome

_CHUNK = 1 << 20
_MAX_LISTED_LINES = 5
# A larger file, or one with more lines, is rejected: the agent would have to hold it in memory.
MAX_FILE_BYTES = 1 << 30
MAX_LINES = 1_000_000
# A longer line counts as unreadable.
MAX_LINE_BYTES = 64 << 20
REMEDY = (
    "Put a good copy there and start it again, or start it with a new session: the old file is "
    'kept beside it (button "New session", or restart with {"session": "new"}).'
)


@dataclass
class FileReport:
    """Result of reading a session file."""

    lines: int = 0
    header: bool = False
    first: dict[str, Any] | None = None
    unreadable: list[int] = field(default_factory=list)
    # Lines whose parent entry is missing.
    orphans: list[int] = field(default_factory=list)
    torn: int = 0


NEW_SESSION_NOTE = (
    "A new session begins here: the agent remembers nothing of what is above. "
    "The file of the earlier session is kept."
)


def check(lieutenant: Lieutenant, path: Path) -> list[str]:
    """Return notices about the file for the transcript. Raises SessionDamaged, OSError."""
    try:
        found = read_session_file(path)
    except FileNotFoundError:
        found = None
    if found is None or (not found.lines and not found.torn):
        if _has_answers(lieutenant):
            what = "is missing" if found is None else "is empty"
            raise SessionDamaged(f"Its session file {path} {what}. {REMEDY}")
        return [NEW_SESSION_NOTE] if _is_first_start(lieutenant) else []
    if not found.header:
        raise SessionDamaged(
            f"Its session file {path} is damaged: it does not begin with a session's header. "
            f"{REMEDY}"
        )
    return _describe_losses(path, found)


def check_size(lieutenant: Lieutenant, path: Path, size: int | None) -> list[str]:
    """Return notices about a file on a VM, of which only the size is known; None: it is missing.

    Raises SessionDamaged.
    """
    if size and size <= MAX_FILE_BYTES:
        return []
    if size:
        raise SessionDamaged(f"Its session file {path} is too large: {size} bytes. {REMEDY}")
    if _has_answers(lieutenant):
        what = "is missing" if size is None else "is empty"
        raise SessionDamaged(f"Its session file {path} on {lieutenant.host} {what}. {REMEDY}")
    return [NEW_SESSION_NOTE] if _is_first_start(lieutenant) else []


def read_session_file(path: Path) -> FileReport:
    """Read a session file line by line. Raises OSError, SessionDamaged."""
    # The folder belongs to the agent, which may have created a link or a pipe.
    file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        facts = os.fstat(file)
        if not stat.S_ISREG(facts.st_mode):
            raise SessionDamaged(f"Its session file {path} is not a file. {REMEDY}")
        if facts.st_size > MAX_FILE_BYTES:
            raise SessionDamaged(
                f"Its session file {path} is too large: {facts.st_size} bytes, at most "
                f"{MAX_FILE_BYTES} are read. {REMEDY}"
            )
        found = _scan_lines(file, facts.st_size)
    finally:
        os.close(file)
    if found.lines > MAX_LINES:
        raise SessionDamaged(f"Its session file {path} has more than {MAX_LINES} lines. {REMEDY}")
    return found


def _scan_lines(file: int, size: int) -> FileReport:
    # Ids may be long, so only their hashes are kept.
    found, known = FileReport(), set[int]()
    for line, length, is_whole in read_lines(file, size):
        if not is_whole:
            found.torn = length
            break
        found.lines += 1
        if found.lines > MAX_LINES:
            break
        entry = None if line is None else _entry(line)
        if entry is None:
            if line is None or line.strip():
                found.unreadable.append(found.lines)
            continue
        if found.first is None:
            found.first = entry
            found.header = entry.get("type") == "session" and isinstance(entry.get("id"), str)
            continue
        parent = entry.get("parentId")
        if isinstance(parent, str) and hash(parent) not in known:
            found.orphans.append(found.lines)
        if isinstance(identity := entry.get("id"), str):
            known.add(hash(identity))
    return found


def read_lines(file: int, size: int) -> Iterator[tuple[bytes | None, int, bool]]:
    """Yield each line without its newline, its length in bytes, and whether it had a newline.

    At most `size` bytes are read: an agent may be writing. The line is None if it is too long.
    """
    pieces: list[bytes] = []
    length = 0
    while size > 0 and (chunk := os.read(file, min(_CHUNK, size))):
        size -= len(chunk)
        *ends, rest = chunk.split(b"\n")
        for end in ends:
            length += len(end)
            is_kept = length <= MAX_LINE_BYTES
            yield (b"".join([*pieces, end]) if is_kept else None), length, True
            pieces, length = [], 0
        length += len(rest)
        if length <= MAX_LINE_BYTES:
            pieces.append(rest)
        else:
            pieces.clear()
    if length:
        yield None, length, False


def _entry(line: bytes) -> dict[str, Any] | None:
    try:
        value = orjson.loads(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _describe_losses(path: Path, found: FileReport) -> list[str]:
    notices = []
    if found.unreadable:
        text = f"{path.name}: {_line_list(found.unreadable)} of {found.lines} cannot be read."
        if found.orphans:
            text += " The agent has lost what was said before that point."
        notices.append(f"Its session file is damaged. {text} The file stays as it is.")
    elif found.orphans:
        notices.append(
            f"Its session file is damaged. {path.name}: {_line_list(found.orphans)} of "
            f"{found.lines} follows an entry that is not there. "
            "The agent has lost what was said before it."
        )
    if found.torn:
        notices.append(
            f"Its session file ended in half a line: {found.torn} bytes were cut from "
            f"{path.name}. The agent's last step may be missing."
        )
    return notices


def _line_list(numbers: list[int]) -> str:
    shown = ", ".join(map(str, numbers[:_MAX_LISTED_LINES]))
    more = (
        f" and {len(numbers) - _MAX_LISTED_LINES} more" if len(numbers) > _MAX_LISTED_LINES else ""
    )
    return f"line{'s' if len(numbers) > 1 else ''} {shown}{more}"


def _is_first_start(lieutenant: Lieutenant) -> bool:
    """Return whether no agent has been ready in its present session, which is not its first.

    Agents create the file with the first message only, so a missing file tells nothing.
    """
    since = lieutenant.session_since
    return since is not None and not lieutenant.processes.filter(ready_at__gt=since).exists()


def _has_answers(lieutenant: Lieutenant) -> bool:
    """Return whether the agent must have written to its present session."""
    answers = lieutenant.answers.filter(outcome=Outcome.COMPLETED)
    if lieutenant.session_since is not None:
        answers = answers.filter(started_at__gt=lieutenant.session_since)
    return answers.exists()
