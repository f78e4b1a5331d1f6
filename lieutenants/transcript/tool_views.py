"""Tool calls as HTML: changes of files as diffs, files and commands as code.

Agents name their arguments differently, and a model may pass anything, so these look at shapes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from django.utils.html import escape
from django.utils.safestring import SafeString

from lieutenants.transcript import diffs, highlighting, terminal

_PATHS = ("path", "file_path", "filePath", "filename", "file")
_OLD = ("oldText", "old_string", "old_str", "oldString", "old")
_NEW = ("newText", "new_string", "new_str", "newString", "new")
_CONTENT = ("content", "contents", "file_text", "text")
_COMMANDS = ("command", "cmd", "script")
_READERS = frozenset({"read", "view", "cat", "read_file"})
_LONG_CHARS, _LONG_LINES = 1_000, 15
_MAX_EDITS = 50
_MAX_CHARS = 60_000


@dataclass(frozen=True)
class Part:
    """A part of a call: its name, its HTML, and whether that is a diff."""

    name: str
    html: SafeString
    is_diff: bool = False

    @property
    def is_long(self) -> bool:
        """Return whether it may have to be scrolled, so that it can have the focus."""
        return len(self.html) > _LONG_CHARS or self.html.count("\n") > _LONG_LINES


class Budget:
    """The number of characters of a page that are still coloured; the rest is plain."""

    def __init__(self, characters: int) -> None:
        self._left = characters

    def code(self, text: str, language: str) -> SafeString:
        """Return the code as HTML, coloured if the budget allows it."""
        if highlighting.can_highlight(text, language) and len(text) <= self._left:
            self._left -= len(text)
            return highlighting.highlight(text, language)
        return escape(terminal.mark_reordering(text))


def parts_of(arguments: Any, budget: Budget) -> list[Part]:
    """Return the parts of a call with these arguments, in their order."""
    if arguments is None:
        return []
    if not isinstance(arguments, Mapping):
        return [Part("", _plain(arguments))]
    edits, used = _edits_of(arguments)
    path = path_of(arguments)
    parts = [
        Part(str(name), _value_html(str(name), value, path, budget))
        for name, value in arguments.items()
        if name not in used
    ]
    for old, new in edits:
        parts.append(Part("change", diffs.html(diffs.compare(old, new)), is_diff=True))
    return parts


def path_of(arguments: Any) -> str:
    """Return the path of the file that a call is about; empty if there is none."""
    return _first_text(arguments, _PATHS) if isinstance(arguments, Mapping) else ""


def output_html(
    tool: str, arguments: Any, text: str, budget: Budget, *, max_chars: int, left_out: int = 0
) -> tuple[SafeString, bool]:
    """Return the output of a tool as HTML, and whether that is a diff."""
    is_whole = len(text) <= max_chars and not left_out
    if is_whole and "\x1b" not in text and diffs.is_unified(text):
        return diffs.html(diffs.unified(text)), True
    language = highlighting.language_of_path(path_of(arguments))
    if is_whole and language and tool.lower() in _READERS and "\x1b" not in text:
        return budget.code(text, language), False
    return terminal.html(text, max_chars, left_out), False


def _edits_of(arguments: Mapping[str, Any]) -> tuple[list[tuple[str, str]], set[str]]:
    """Return the replaced texts of a call, and the names of the arguments that hold them."""
    used = {name for name in (*_OLD, *_NEW) if isinstance(arguments.get(name), str)}
    if (edit := _edit_of(arguments)) and _is_short([edit]):
        return [edit], used
    listed = arguments.get("edits")
    if isinstance(listed, Sequence) and listed and not isinstance(listed, str):
        found = [_edit_of(each) for each in listed[:_MAX_EDITS] if isinstance(each, Mapping)]
        edits = [each for each in found if each is not None]
        # What is not understood as a whole is shown as it is.
        if len(edits) == len(listed) and _is_short(edits):
            return edits, {"edits"}
    return [], set()


def _is_short(edits: list[tuple[str, str]]) -> bool:
    return sum(len(old) + len(new) for old, new in edits) <= _MAX_CHARS


def _edit_of(arguments: Mapping[str, Any]) -> tuple[str, str] | None:
    if _has_text(arguments, _OLD) and _has_text(arguments, _NEW):
        return _first_text(arguments, _OLD), _first_text(arguments, _NEW)
    return None


def _value_html(name: str, value: Any, path: str, budget: Budget) -> SafeString:
    if isinstance(value, str):
        if name in _COMMANDS:
            return budget.code(value, "bash")
        if name in _CONTENT and path:
            return budget.code(value, highlighting.language_of_path(path))
    return _plain(value)


def _plain(value: Any) -> SafeString:
    text = value if isinstance(value, str) else json.dumps(value, indent=2, ensure_ascii=False)
    return escape(terminal.mark_reordering(text))


def _has_text(arguments: Mapping[str, Any], names: tuple[str, ...]) -> bool:
    return any(isinstance(arguments.get(name), str) for name in names)


def _first_text(arguments: Mapping[str, Any], names: tuple[str, ...]) -> str:
    return next(_texts(arguments, names), "")


def _texts(arguments: Mapping[str, Any], names: tuple[str, ...]) -> Iterator[str]:
    return (value for name in names if isinstance(value := arguments.get(name), str))
