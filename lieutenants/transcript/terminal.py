"""Terminal output as plain text, without control codes and with nothing hidden."""

from __future__ import annotations

import re

# ANSI codes: CSI, OSC (titles, links), and short ones.
_CODES = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b[()][0-9A-Za-z]|\x1b[=>78cDEHM]"
)
# Characters that change the display order of the text behind them.
_BIDI = re.compile("[\u202a-\u202e\u2066-\u2069]")


def plain_text(text: str) -> str:
    """Return the text as a terminal would show it, without colours and reordering."""
    if "\x1b" in text:
        text = _CODES.sub("", text)
    if "\r" in text:
        text = "\n".join(_overwritten(line) for line in text.replace("\r\n", "\n").split("\n"))
    return mark_reordering(text)


def mark_reordering(text: str) -> str:
    """Return the text with a visible mark in place of each character that would reorder it."""
    return _BIDI.sub(lambda found: f"[U+{ord(found[0]):04X}]", text)


def _overwritten(line: str) -> str:
    """Return the line after its carriage returns have overwritten earlier text."""
    pieces: list[str] = []
    covered = 0
    # From the last part to the first, so that each character is copied at most once.
    for part in reversed(line.split("\r")):
        if len(part) > covered:
            pieces.append(part[covered:])
            covered = len(part)
    return "".join(pieces)
