"""Terminal output as a terminal would show it in the end: overwritten lines, moves, colours.

A screen of unlimited width; what it clears moves up instead of vanishing, and backgrounds and
concealed text stay readable, so nothing is hidden. Titles and targets of hyperlinks are dropped.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from django.utils.html import escape
from django.utils.safestring import SafeString, mark_safe

from lieutenants.transcript.links import linked

# Text, then codes: CSI (also as one character), strings (titles, links), and short ones.
_PIECE = re.compile(
    r"(?P<text>[^\x00-\x08\x0a-\x1f\x7f-\x9f]+)"
    r"|(?:\x1b\[|\x9b)(?P<numbers>[0-?]*)[ -/]*(?P<final>[@-~])"
    r"|\x1b[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)"
    r"|\x1b[ -/]*[0-~]"
    r"|(?P<control>[\x00-\x1f\x7f-\x9f])"
)
# Characters that change the display order of the text behind them.
_BIDI = re.compile("[\u202a-\u202e\u2066-\u2069]")
# How far codes move the cursor: upwards at most a screen, to the right at most a wide line.
_ROWS, _COLUMNS = 200, 240
_COLOURS = ("black", "red", "green", "yellow", "blue", "magenta", "cyan", "white")
_FLAGS = {1: "bold", 2: "dim", 3: "italic", 4: "underline", 7: "inverse", 9: "strike"}
_ENDS = {22: ("bold", "dim"), 23: ("italic",), 24: ("underline",), 27: ("inverse",)}
_ENDS |= {29: ("strike",)}
_MAX_CODES = 32
# A text with more changes of style in it is shown plain.
_MAX_RUNS = 4_000

# A piece of a line, and the classes of its style.
Run = tuple[str, str]


def plain_text(text: str) -> str:
    """Return the text as a terminal would show it, without colours and reordering."""
    if _needs_screen(text):
        lines = _screen_of(text).lines
        text = "\n".join("".join(piece for piece, _ in line.runs()) for line in lines)
    return mark_reordering(text)


def html(text: str, max_chars: int, left_out: int = 0) -> SafeString:
    """Return the text as HTML, coloured by classes; a very long one without its middle.

    `left_out` characters were already left out of the text.
    """
    lines = [line.runs() for line in _screen_of(text).lines] if _needs_screen(text) else None
    if lines is None:
        return mark_safe("".join(map(_run_html, _shortened([(text, "")], max_chars, left_out))))  # noqa: S308
    runs = [run for line in lines for run in (*line, ("\n", ""))][:-1]
    if len(runs) > _MAX_RUNS + len(lines):
        runs = [("".join(piece for piece, _ in runs), "")]
    return mark_safe("".join(map(_run_html, _shortened(runs, max_chars, left_out))))  # noqa: S308


def mark_reordering(text: str) -> str:
    """Return the text with a visible mark in place of each character that would reorder it."""
    return _BIDI.sub(lambda found: f"[U+{ord(found[0]):04X}]", text)


def shortened(text: str, max_chars: int, left_out: int = 0) -> str:
    """Return head and tail of a long text; `left_out` characters were already left out of it."""
    return "".join(piece for piece, _ in _shortened([(text, "")], max_chars, left_out))


def _needs_screen(text: str) -> bool:
    return any(each in text for each in "\x1b\x9b\r\b")


def _screen_of(text: str) -> _Screen:
    screen = _Screen()
    # The usual end of a line is no move.
    screen.write(text.replace("\r\n", "\n"))
    return screen


# -- HTML ----------------------------------------------------------------------------------------


def _run_html(run: Run) -> str:
    text, style = run
    shown = linked(mark_reordering(text))
    return f'<span class="{escape(style)}">{shown}</span>' if style else shown


def _shortened(runs: list[Run], max_chars: int, left_out: int) -> Iterable[Run]:
    """Return head and tail of long runs, with a note between them."""
    size = sum(len(text) for text, _ in runs)
    if size <= max_chars:
        return runs
    half = max_chars // 2
    note = f"\n\n… {left_out + size - 2 * half:,} characters left out …\n\n"
    tail = list(_first(((text[::-1], style) for text, style in reversed(runs)), half))
    ending = [(text[::-1], style) for text, style in reversed(tail)]
    return [*_first(runs, half), (note, ""), *ending]


def _first(runs: Iterable[Run], count: int) -> Iterator[Run]:
    """Yield the runs up to `count` characters."""
    for text, style in runs:
        if count <= 0:
            return
        yield text[:count], style
        count -= len(text)


# -- the screen ----------------------------------------------------------------------------------


class _Line:
    """A line: pieces while text is only appended, single characters once it is overwritten."""

    __slots__ = ("_cells", "_pieces", "length")

    def __init__(self) -> None:
        self._pieces: list[Run] = []
        self._cells: list[Run] | None = None
        self.length = 0

    def write(self, column: int, text: str, style: str) -> None:
        """Write at a column, which may lie behind the end."""
        if column > self.length:
            self.write(self.length, " " * (column - self.length), "")
        if column == self.length and self._cells is None:
            self._pieces.append((text, style))
        else:
            if self._cells is None:
                self._cells = [(char, each) for piece, each in self._pieces for char in piece]
            self._cells[column : column + len(text)] = [(char, style) for char in text]
        self.length = max(self.length, column + len(text))

    def cut(self, column: int) -> None:
        """Erase everything from this column on."""
        if column >= self.length:
            return
        if column == 0:
            self._pieces, self._cells = [], None
        else:
            self._cells = self._cells or [(c, each) for piece, each in self._pieces for c in piece]
            del self._cells[column:]
        self.length = column

    def runs(self) -> list[Run]:
        """Return the pieces of the line, neighbours of one style as one."""
        found: list[tuple[list[str], str]] = []
        for text, style in self._pieces if self._cells is None else self._cells:
            if found and found[-1][1] == style:
                found[-1][0].append(text)
            else:
                found.append(([text], style))
        return [("".join(texts), style) for texts, style in found]


class _Screen:
    """Lines, cursor and style."""

    def __init__(self) -> None:
        self.lines = [_Line()]
        self._row = self._column = 0
        self._style = _Style()

    def write(self, text: str) -> None:
        """Show a text with its codes."""
        for piece in _PIECE.finditer(text):
            kind = piece.lastgroup
            if kind == "text":
                self._put(piece[0])
            elif kind == "final":
                self._obey(piece["final"], piece["numbers"])
            elif kind == "control":
                self._control(piece[0])

    def _put(self, text: str) -> None:
        self.lines[self._row].write(self._column, text, self._style.classes)
        self._column += len(text)

    def _control(self, char: str) -> None:
        if char in "\n\v\f":
            self._down(1)
        elif char == "\r":
            self._column = 0
        elif char == "\b":
            self._column = max(0, self._column - 1)

    def _down(self, count: int) -> None:
        self._row, self._column = self._row + count, 0
        if self._row >= len(self.lines):
            self._row = len(self.lines)
            self.lines.append(_Line())

    def _obey(self, code: str, numbers: str) -> None:
        """Follow a CSI code; those that only matter on a real screen are ignored."""
        if code == "m":
            self._style.change(numbers)
            return
        first = numbers.split(";")[0]
        count = int(first[:5]) if first.isascii() and first.isdigit() else 0
        if code in "AF":
            top = max(0, len(self.lines) - _ROWS)
            self._row = min(self._row, max(top, self._row - max(1, count)))
            self._column = 0 if code == "F" else self._column
        elif code in "BE":
            self._row = min(len(self.lines) - 1, self._row + max(1, count))
            self._column = 0 if code == "E" else self._column
        elif code == "C":
            self._column = max(self._column, min(_COLUMNS, self._column + max(1, count)))
        elif code == "D":
            self._column = max(0, self._column - max(1, count))
        elif code == "G":
            self._column = min(_COLUMNS, max(0, count - 1))
        elif code == "K" and count in (0, 2):
            self.lines[self._row].cut(0 if count == 2 else self._column)
        elif code == "J" and count == 0:
            self.lines[self._row].cut(self._column)
            del self.lines[self._row + 1 :]
        elif code in "HfJ":
            self._begin_below()

    def _begin_below(self) -> None:
        """Go on below everything: a cleared screen stays readable above."""
        self._row, self._column = len(self.lines) - 1, 0
        if self.lines[-1].length:
            self._down(1)


class _Style:
    """The colours and attributes that SGR codes have set."""

    def __init__(self) -> None:
        self.classes = ""
        self._colour = ""
        self._flags: set[str] = set()

    def change(self, numbers: str) -> None:
        """Apply the numbers of one code."""
        if not re.fullmatch(r"[0-9;:]*", numbers):
            return
        codes = [int(each[-6:] or 0) for each in re.split("[;:]", numbers)[:_MAX_CODES]]
        rest = iter(codes)
        for code in rest:
            self._apply(code, rest)
        colour = [self._colour] if self._colour else []
        self.classes = " ".join(f"t-{each}" for each in (*colour, *sorted(self._flags)))

    def _apply(self, code: int, rest: Iterator[int]) -> None:
        if code == 0:
            self._colour = ""
            self._flags.clear()
        elif code in _FLAGS:
            self._flags.add(_FLAGS[code])
        elif code in _ENDS:
            self._flags.difference_update(_ENDS[code])
        elif code in (38, 48):
            colour = _extended(rest)
            self._colour = colour if code == 38 else self._colour
            self._flags |= {"block"} if code == 48 else set()
        elif 30 <= code <= 37 or 90 <= code <= 97:
            self._colour = "grey" if code == 90 else _COLOURS[code % 10]
        elif code == 39:
            self._colour = ""
        elif 41 <= code <= 47 or 100 <= code <= 107:
            # Only that there is a background: any colour on any other one may be unreadable.
            self._flags.add("block")
        elif code in (40, 49):
            self._flags.discard("block")


def _extended(rest: Iterator[int]) -> str:
    """Return the basic colour nearest to one of 256, or to red, green and blue."""
    kind = next(rest, 0)
    if kind == 5:
        number = next(rest, 0)
        if number < 16:
            return "grey" if number == 8 else _COLOURS[number % 8]
        if number >= 232:
            return "grey"
        number -= 16
        return _nearest(number // 36 * 51, number // 6 % 6 * 51, number % 6 * 51)
    if kind == 2:
        return _nearest(next(rest, 0), next(rest, 0), next(rest, 0))
    return ""


def _nearest(red: int, green: int, blue: int) -> str:
    most, least = max(red, green, blue), min(red, green, blue)
    if most - least < 48:
        return "grey"
    middle = (most + least) / 2
    return _COLOURS[(red > middle) + 2 * (green > middle) + 4 * (blue > middle)]
