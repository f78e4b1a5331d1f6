"""What programs print, as people read it: without a terminal's codes, with nothing hidden."""

from __future__ import annotations

import re

# Colours and other codes: CSI, OSC (titles, links), and short ones.
_CODES = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b[()][0-9A-Za-z]|\x1b[=>78cDEHM]"
)
# Characters that show the text behind them in another order.
_BIDI = re.compile("[\u202a-\u202e\u2066-\u2069]")


def plain(text: str) -> str:
    """Return the text as a terminal leaves it, without colours, and with nothing reordered."""
    if "\x1b" in text:
        text = _CODES.sub("", text)
    if "\r" in text:
        text = "\n".join(_overwritten(line) for line in text.replace("\r\n", "\n").split("\n"))
    return marked(text)


def marked(text: str) -> str:
    """Return the text with a visible mark for each character that would reorder it."""
    return _BIDI.sub(lambda found: f"[U+{ord(found[0]):04X}]", text)


def _overwritten(line: str) -> str:
    """Return what stands in a line after each carriage return has begun it again."""
    shown = ""
    for part in line.split("\r"):
        shown = part + shown[len(part) :]
    return shown
