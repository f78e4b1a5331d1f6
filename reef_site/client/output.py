"""Output of commands: results on stdout, errors and progress on stderr."""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Iterable, Sequence
from typing import Any, TextIO

# Control characters, but for line ends and tabs: on a terminal they could do anything. The last
# ones would show a text in another order.
CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
CLEAR_LINE = "\r\x1b[K"


def write(text: str, stream: TextIO | None = None) -> None:
    """Print a text with one line end; on a terminal without control characters."""
    target = stream or sys.stdout
    shown = CONTROL.sub("\N{REPLACEMENT CHARACTER}", text) if target.isatty() else text
    encoding = target.encoding or "utf-8"
    shown = shown.encode(encoding, "backslashreplace").decode(encoding)
    target.write(shown if shown.endswith("\n") else shown + "\n")
    target.flush()


def write_json(value: object) -> None:
    """Print a value as JSON in lines."""
    write(json.dumps(value, indent=2, ensure_ascii=not is_unicode()))


def is_unicode() -> bool:
    """Return whether stdout takes every character."""
    return (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return rows in columns, under a line with their names."""
    lines = [list(head), *([_cell(each) for each in row] for row in rows)]
    widths = [max(len(line[place]) for line in lines) for place in range(len(head))]
    padded = (
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        for line in lines
    )
    return "\n".join(line.rstrip() for line in padded)


def tree(nodes: Sequence[dict[str, Any]], indent: str = "") -> list[str]:
    """Return a line for each node of `/vm-tree/tree`, below its parent."""
    lines = []
    # A stack, since trees may be deeper than recursion.
    pending = [(node, 0) for node in reversed(nodes)]
    while pending:
        node, depth = pending.pop()
        vm = node["vm"]
        facts = f"[{vm['category']}] {vm['vmId']}"
        lines.append(f"{indent}{'  ' * depth}{vm['name'] or vm['vmId']} {facts}")
        pending += [(child, depth + 1) for child in reversed(node["children"])]
    return lines


def _cell(value: object) -> str:
    return "" if value is None else " ".join(str(value).split())


class Progress:
    """One line on the terminal that says what is waited for; nothing if stderr is no terminal."""

    def __init__(self) -> None:
        self._is_shown = sys.stderr.isatty()
        self._start = time.monotonic()

    def show(self, text: str) -> None:
        """Replace the line."""
        if self._is_shown:
            seconds = int(time.monotonic() - self._start)
            line = CONTROL.sub(" ", " ".join(text.split()))[:100]
            sys.stderr.write(f"{CLEAR_LINE}{line} ({seconds} s)")
            sys.stderr.flush()

    def end(self) -> None:
        """Remove the line."""
        if self._is_shown:
            sys.stderr.write(CLEAR_LINE)
            sys.stderr.flush()
