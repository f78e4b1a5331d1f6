"""Shows how one file differs from a base, as the lines of a unified diff."""

from __future__ import annotations

from .git import Failed, Problem
from .listing import DIFF, find_untracked, is_binary, read_new, tracked

TYPE_CHECKING = False  # importing typing would cost a megabyte
if TYPE_CHECKING:
    from typing import Any

    from .bases import Base
    from .git import Git
    from .heads import Repository
    from .listing import Entry

MAX_LINES, MAX_BYTES = 5000, 512 << 10
# Longer than what is shown, so that a secret at the end of that is seen as a whole.
MAX_LINE = 3000


def show_file(
    repository: Repository, base: Base, path: bytes, old_path: bytes, max_lines: int
) -> dict[str, Any]:
    """Return the file, and up to `max_lines` lines that begin with `@`, `+`, `-`, ` ` or `\\`.

    `more` if there are further lines; `cut` if so many that they are never shown.
    """
    git = repository.git
    try:
        found, _ = tracked(git, base.tree, path, *([old_path] if old_path else []))
        entry = next((each for each in found if each.path == path), None)
        if entry is None:
            entry = find_untracked(git, path)
            if entry is None:
                raise Problem("unchanged")
            return _shown(entry, *_new_lines(git, entry), max_lines)
        paths = [path] + ([entry.old_path] if entry.old_path else [])
        output = git.run(*DIFF, "--unified=3", base.tree, "--", *paths, limit=MAX_BYTES)
    except Failed as trouble:
        raise Problem("broken", str(trouble)) from None
    body, entry.is_binary = _hunks(output.split(b"\n")[:-1])
    return _shown(entry, body, output.is_cut, max_lines)


def _hunks(lines: list[bytes]) -> tuple[list[bytes], bool]:
    """Return the hunks of all sections, and whether a part is binary.

    A file that became a link has two sections: one for what was deleted, one for what was added.
    """
    body, is_binary, in_head = [], False, True
    for line in lines:
        if line.startswith(b"diff --git "):
            in_head = True
        elif line.startswith(b"@@"):
            in_head = False
        is_binary = is_binary or (in_head and line.startswith(b"Binary files "))
        if not in_head:
            body.append(line)
    return body, is_binary


def _new_lines(git: Git, entry: Entry) -> tuple[list[bytes], bool]:
    """Return a new file as lines of a diff, and whether the file is longer."""
    if entry.kind not in ("file", "link"):
        return [], False
    data, is_cut = read_new(git, entry, MAX_BYTES)
    entry.is_binary = is_binary(data)
    if entry.is_binary or not data:
        return [], is_cut and not entry.is_binary
    lines = data.split(b"\n")
    note = [b"\\ No newline at end of file"] if lines[-1] and not is_cut else []
    # Behind the last newline, or cut off.
    lines = lines[:-1] if is_cut or not lines[-1] else lines
    head = b"@@ -0,0 +1,%d @@" % len(lines)
    return [head, *(b"+" + line for line in lines), *note], is_cut


def _shown(entry: Entry, lines: list[bytes], is_cut: bool, max_lines: int) -> dict[str, Any]:
    limit = min(max(1, max_lines), MAX_LINES)
    return {
        "file": entry.facts(),
        "lines": [_text(line) for line in lines[:limit]],
        "more": len(lines) > limit and limit < MAX_LINES,
        "cut": is_cut or len(lines) > MAX_LINES,
    }


def _text(line: bytes) -> str:
    text = line.decode("utf-8", "replace").replace("\0", "\ufffd")
    return text if len(text) <= MAX_LINE else text[:MAX_LINE]
