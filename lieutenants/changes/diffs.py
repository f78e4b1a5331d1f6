"""The lines of a unified diff as rows with line numbers of both sides."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from versconfig.screening.screen import Screen

_HUNK = re.compile(r"@@ -(\d{1,9})(?:,\d{1,9})? \+(\d{1,9})(?:,\d{1,9})? @@(.*)", re.DOTALL)
# Control characters but tabs become visible.
_PICTURES = {code: 0x2400 + code for code in range(32) if code != 9} | {127: 0x2421}
# Signs of the lines that a file has on each side.
_SIDES = (" +", " -")
# Start, end and name of a secret in a line.
_Span = tuple[int, int, str]
_KINDS = {"+": "added", "-": "deleted", " ": "same"}


@dataclass(frozen=True)
class Row:
    """A line: `kind` is same, added, deleted, hunk or note; numbers are None where it is not."""

    kind: str
    text: str
    old: int | None = None
    new: int | None = None

    @property
    def sign(self) -> str:
        """Return the character that says what happened, so that colour is not needed."""
        return {"added": "+", "deleted": "−"}.get(self.kind, "")

    @property
    def side(self) -> str:
        """Return the side that a comment on this line is about: old or new; empty for none."""
        return "old" if self.kind == "deleted" else "new" if self.new is not None else ""

    @property
    def number(self) -> int | None:
        """Return the number on that side."""
        return self.old if self.kind == "deleted" else self.new


def rows_of(lines: Iterable[str]) -> Iterator[Row]:
    """Yield the rows. Lines that are not as in a diff become notes."""
    old = new = 0
    for given in lines:
        line = given.translate(_PICTURES)
        hunk = _HUNK.fullmatch(line)
        if hunk:
            old, new = int(hunk[1]), int(hunk[2])
            yield Row("hunk", line)
            continue
        # Git may leave out the blank of an empty line.
        kind = _KINDS.get(line[:1] or " ", "note")
        if kind == "note" or not (old or new):
            yield Row("note", line.removeprefix("\\ "))
            continue
        yield Row(
            kind,
            line[1:],
            old=old if kind != "added" else None,
            new=new if kind != "deleted" else None,
        )
        old += kind != "added"
        new += kind != "deleted"


def cover(lines: Sequence[str], screen: Screen) -> list[str]:
    """Return the lines with secrets masked, also those that are spread over several lines.

    Each side is screened as the text that the file has there.
    """
    found: dict[int, list[_Span]] = {}
    for signs in _SIDES:
        mine = [n for n, line in enumerate(lines) if (line[:1] or " ") in signs]
        for n, span in _spans([lines[n][1:] for n in mine], screen):
            found.setdefault(mine[n], []).append(span)
    masked = [_masked(line, sorted(found.get(n, ()))) for n, line in enumerate(lines)]
    return [screen.cover(line) for line in masked]


def _spans(texts: Sequence[str], screen: Screen) -> Iterator[tuple[int, _Span]]:
    """Yield the number of a line and what is secret in it, for lines that are one text."""
    runs, place, begin = screen.runs("\n".join(texts)), 0, 0
    for n, text in enumerate(texts):
        end = begin + len(text)
        while place < len(runs) and runs[place].start < end:
            run = runs[place]
            yield n, (max(run.start, begin) - begin, min(run.end, end) - begin, run.name)
            if run.end > end:
                # It goes on in the next line.
                break
            place += 1
        begin = end + 1


def _masked(line: str, spans: Sequence[_Span]) -> str:
    """Return a line with a mark in place of each span behind its sign."""
    sign, body = line[:1], line[1:]
    done, at = [sign], 0
    for start, end, name in spans:
        if start >= at:
            done += [body[at:start], f"[{name}]"]
        at = max(at, end)
    return "".join([*done, body[at:]])
