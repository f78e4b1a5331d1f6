r"""Format of log lines: one line per record, at most 2 KB, no control or format characters.

Text from clients, agents and other programs is escaped (`\n`, `\x1b`, `\u202e`), so that it can
neither start a line of its own nor control a terminal. All processes log through `LineFormatter`;
`up` passes the output of its child processes through `one_line`. Standard library only.
"""

from __future__ import annotations

import logging
import re

MAX_LINE_BYTES = 2048
_ELLIPSIS = "…"
# Prefix of traceback lines, which therefore cannot pass for records.
_CONTINUED = "  | "
# Candidates for an escape.
_SUSPECT = re.compile(r"[^ -~]")


def one_line(text: str) -> str:
    """Return `text` with all unprintable characters escaped, cut to MAX_LINE_BYTES."""
    too_long = len(text) > MAX_LINE_BYTES
    # Cut before the escapes are made, none of which is shorter than its character.
    text = text[:MAX_LINE_BYTES]
    if not (text.isascii() and text.isprintable()):
        text = _SUSPECT.sub(_escaped, text)
    encoded = text.encode()
    if not too_long and len(encoded) <= MAX_LINE_BYTES:
        return text
    kept = encoded[: MAX_LINE_BYTES - len(_ELLIPSIS.encode())]
    return kept.decode("utf-8", "ignore") + _ELLIPSIS


def _escaped(match: re.Match[str]) -> str:
    character = match[0]
    # Spaces of other widths are harmless; line and paragraph separators are not.
    if character.isprintable() or (character.isspace() and character not in _BREAKS):
        return character
    return character.encode("unicode_escape").decode()


_BREAKS = frozenset("\t\n\v\f\r\x1c\x1d\x1e\x1f\x85\u2028\u2029")


class LineFormatter(logging.Formatter):
    """Format records as single lines; the lines of a traceback follow with a prefix."""

    def format(self, record: logging.LogRecord) -> str:
        record.message = record.getMessage()
        if self.usesTime():
            record.asctime = self.formatTime(record, self.datefmt)
        lines = [one_line(self.formatMessage(record))]
        details = [self.formatException(record.exc_info)] if record.exc_info else []
        details += [self.formatStack(record.stack_info)] if record.stack_info else []
        for detail in details:
            lines += [one_line(_CONTINUED + line) for line in detail.split("\n")]
        return "\n".join(lines)
