"""Covers secrets in texts and JSON values. Pure: text in, text out.

A `Screen` is compiled once for a set of secrets. Every run of `FRAGMENT` or more characters of a
form of a secret becomes `[NAME]`; so do the beginning of one at the end of a text and the end of
one at its start, which a cut may have left there. Tokens that are kept as hashes only are known
by their shape.

A clean text costs one pass: of all 8-byte windows of the forms one lies at a multiple of 8 in any
fragment, so the text's own windows at these places are looked up in a set.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from versconfig.screening.spellings import BREAK, base64_forms, normalize, plain_forms
from versconfig.screening.strength import is_distinctive

# So many characters of a secret in a row are covered wherever they stand.
FRAGMENT = 16
# So many are covered where a text begins or ends within a secret; of base64, so many more.
EDGE = 8
EDGE_BASE64 = 11
# So many characters that look like the beginning of a secret may be let out by a stream. Without
# this the newest letters of nearly every text would be held back.
LET_OUT = 3

_WINDOW = 8
_QUAD = 4
_BLOCK = 1 << 15
_TAIL = 160
_MAX_ORDINARY, _SHORT_TEXT = 4096, 40
# So much of a token behind its literal is covered at the end of a text.
_FEW, _MANY = 3, 24
_WORD = "[A-Za-z0-9_-]"
_BASE64 = "[A-Za-z0-9+/_-]"


class Secret(NamedTuple):
    """A value that nobody may read, and what stands in its place, in brackets."""

    name: str
    value: str


class _Shape(NamedTuple):
    """A token that is known by its form: this literal, then so many characters."""

    name: str
    literal: str
    sign: str
    length: int
    # Where the literal itself is no part of the secret.
    keeps_literal: bool = False


def _shapes() -> list[_Shape]:
    node, join = "VERS_AUTH_TOKEN", "join token"
    found = [
        _Shape(node, "reef_", _WORD, 43),
        _Shape(join, "reefjoin_", _WORD, 43),
        _Shape("sign-in link", "/signin/", _WORD, 32, keeps_literal=True),
    ]
    # What base64 makes of `reef_` and `reefjoin_` behind 0, 1 or 2 other bytes.
    for name, literals in (
        (node, (("cmVlZl", 57), ("JlZWZf", 57), ("yZWVmX", 57))),
        (join, (("cmVlZmpvaW5f", 57), ("JlZWZqb2luX", 57), ("yZWVmam9pbl", 57))),
    ):
        found += [_Shape(name, literal, _BASE64, count) for literal, count in literals]
    return found


SHAPES = _shapes()
_WHOLE_SHAPES = re.compile(
    "|".join(f"({re.escape(each.literal)}){each.sign}{{{each.length}}}" for each in SHAPES)
)
_OPEN_SHAPES = re.compile(
    "|".join(f"({re.escape(each.literal)}){each.sign}{{0,{each.length - 1}}}\\Z" for each in SHAPES)
)
# One of these is part of every literal.
_ANCHORS = ("reef", "/signin/", "cmVlZ", "JlZWZ", "yZWVm")
# One byte is looked for much faster than five; each shape that it begins has it.
_ANCHORS_BY_BYTE = (
    (ord("_"), (b"reef",)),
    (ord("/"), (b"/signin/",)),
    (ord("Z"), (b"cmVlZ", b"JlZWZ", b"yZWVm")),
)


class _Run(NamedTuple):
    start: int
    end: int
    name: str


class Piece(NamedTuple):
    """What a stream shows next, and how many characters at its end it has to give again.

    Of these the first `shown` were shown already: they are too few to hold back. `covered` is what
    was given, but for the held characters, as `cover` would have it.
    """

    text: str
    held: int = 0
    shown: int = 0
    covered: str = ""


class Screen:
    """A compiled set of secrets."""

    def __init__(self, secrets: Iterable[Secret] = ()) -> None:
        self._fragments: dict[str, str] = {}
        self._short: dict[str, str] = {}
        self._heads: dict[str, str] = {}
        self._tails: dict[str, str] = {}
        forms: list[str] = []
        for secret in secrets:
            if not is_distinctive(secret.value):
                continue
            value = secret.value.strip()
            for form, edge in (
                *((each, EDGE) for each in plain_forms(value)),
                *((each, EDGE_BASE64) for each in base64_forms(value)),
            ):
                if len(form) >= EDGE:
                    forms.append(form)
                    self._add(form, secret.name, edge)
        # Without their last characters: what ends a form has nothing to wait for.
        self._begun = "\0".join([*(each[:-1] for each in forms), *(e.literal for e in SHAPES)])
        self._quads = _parts("\0".join([*forms, self._begun]), _QUAD)
        self._windows = frozenset(_windows_of(forms))
        self._octets = frozenset(_parts("\0".join(self._fragments), _WINDOW))
        # Short texts without secrets, such as the words of the agent's protocol.
        self._ordinary: set[str] = set()
        self._short_bytes = [each.encode() for each in self._short]

    def _add(self, form: str, name: str, edge: int) -> None:
        if len(form) < FRAGMENT:
            self._short.setdefault(form, name)
        for start in range(len(form) - FRAGMENT + 1):
            self._fragments.setdefault(form[start : start + FRAGMENT], name)
        for length in range(edge, min(FRAGMENT, len(form))):
            self._heads.setdefault(form[:length], name)
            self._tails.setdefault(form[-length:], name)

    # -- whole texts ----------------------------------------------------------------------

    def cover(self, text: str, names: set[str] | None = None) -> str:
        """Return the text with all secrets covered; add to `names` what was covered."""
        if len(text) < EDGE:
            return text
        edge = self._has_edge(text)
        found: set[str] = set()
        done, rest, first = [], "", edge
        for start in range(0, len(text), _BLOCK):
            block = rest + text[start : start + _BLOCK]
            end = start + _BLOCK >= len(text)
            suspect = first or (edge and end) or self._may_hold(block)
            runs = self._runs(block, first=first, last=end) if suspect else []
            piece = self._piece(block, runs, found, cut=self._cut(block, runs, last=end))
            done.append(piece.covered)
            rest = block[len(block) - piece.held :] if piece.held else ""
            first = first and piece.held == len(block)
        if not found:
            return text
        if names is not None:
            names |= found
        return "".join(done)

    def cover_value(
        self, value: Any, names: set[str] | None = None, known: Mapping[str, str] | None = None
    ) -> Any:
        """Return a JSON value with all secrets in its texts and keys covered.

        `known` has texts that were looked through before, with what they were covered to.
        """
        known = known or {}
        texts: list[str] = []
        _gather(value, texts, self._ordinary)
        if not texts:
            return value
        suspect = any(map(self._has_edge, texts))
        if not suspect:
            suspect = any(known.get(text, text) != text for text in texts) if known else False
            rest = [text for text in texts if text not in known] if known else texts
            suspect = suspect or self._may_hold("\0".join(rest))
        if not suspect and len(self._ordinary) < _MAX_ORDINARY:
            self._ordinary.update(text for text in texts if len(text) <= _SHORT_TEXT)
        return self._covered(value, names, known) if suspect else value

    def _covered(self, value: Any, names: set[str] | None, known: Mapping[str, str]) -> Any:
        if isinstance(value, str):
            if value in known and not self._has_edge(value):
                return known[value]
            return self.cover(value, names)
        if isinstance(value, list):
            return [self._covered(each, names, known) for each in value]
        if isinstance(value, dict):
            return {
                self.cover(key, names): self._covered(each, names, known)
                for key, each in value.items()
            }
        return value

    # -- streams --------------------------------------------------------------------------

    def feed(
        self,
        text: str,
        names: set[str] | None = None,
        *,
        shown: int = 0,
        last: bool = False,
        let_out: int = LET_OUT,
    ) -> Piece:
        """Return what a stream shows next of the text, which begins with what was held before.

        `shown` is that of the piece before; with `last` nothing is held.
        """
        if last and len(text) < EDGE:
            return Piece(text[shown:], covered=text)
        suspect = last or self._may_hold(text)
        if not suspect and let_out and not self._may_begin(text):
            # Shown, and given again: a secret may begin with these.
            kept = min(let_out, len(text))
            return Piece(text[shown:], kept, kept, text[:-kept] if kept else "")
        found: set[str] = set()
        runs = self._runs(text, first=False, last=last) if suspect else []
        cut = self._cut(text, runs, last=last)
        piece = self._piece(text, runs, found, cut=cut, shown=shown)
        if names is not None:
            names |= found
        if 0 < piece.held <= let_out:
            rest = text[max(cut, shown) :]
            return Piece(piece.text + rest, piece.held, piece.held, piece.covered)
        return piece

    @staticmethod
    def _piece(text: str, runs: list[_Run], names: set[str], *, cut: int, shown: int = 0) -> Piece:
        """Cover all runs up to the cut; what is behind it is held back."""
        runs = [run for run in runs if run.end <= cut]
        names |= {run.name for run in runs}
        covered = _replaced(text, runs, 0, cut)
        new = _replaced(text, runs, shown, cut) if shown else covered
        return Piece(new, len(text) - cut, max(0, shown - cut), covered)

    def _cut(self, text: str, runs: list[_Run], *, last: bool) -> int:
        """Return up to where the text's end leaves nothing open."""
        if last:
            return len(text)
        cut = self._safe_end(text)
        return min([cut, *(run.start for run in runs if run.start < cut < run.end)])

    def _safe_end(self, text: str) -> int:
        """Return up to where no secret can begin that the text's end leaves open."""
        tail = text[-_TAIL:]
        if tail.endswith("\\"):
            # Perhaps the first half of an escaped line break.
            before = self._safe_end(text[:-1])
            return before if before < len(text) - 1 else len(text)
        plain, at = _normalized(tail)
        end = start = len(plain)
        if opened := _OPEN_SHAPES.search(plain):
            start = opened.start()
        length = 1
        while length <= min(FRAGMENT - 1, end) and plain[end - length :] in self._begun:
            start = min(start, end - length)
            length += 1
        return len(text) if start == end else len(text) - len(tail) + at.of(start)

    def _may_begin(self, text: str) -> bool:
        """Return whether a text without secrets may end with more of one than is let out."""
        end = text[-_QUAD - 1 :]
        return end[-_QUAD:] in self._quads or "\n" in end or "\\" in end or "\r" in end

    # -- finding --------------------------------------------------------------------------

    def _may_hold(self, text: str) -> bool:
        """Return whether a secret may stand in the text; quick, and True too often."""
        data = text.encode("utf-8", "replace").translate(None, b"\r\n")
        if b"\\" in data:
            data = data.replace(b"\\n", b"").replace(b"\\r", b"")
        whole = len(data) & -_WINDOW
        if not self._windows.isdisjoint(memoryview(data)[:whole].cast("Q")):
            return True
        for byte, anchors in _ANCHORS_BY_BYTE:
            if byte in data and any(map(data.__contains__, anchors)):
                return True
        return any(map(data.__contains__, self._short_bytes))

    def _has_edge(self, text: str) -> bool:
        """Return whether the text may begin or end within a form of a secret; quick."""
        quads = self._quads
        return text[-_TAIL:].rstrip("\r\n")[-_QUAD:] in quads or text[:_QUAD] in quads

    def _runs(self, text: str, *, first: bool, last: bool) -> list[_Run]:
        """Return what is to be covered, from left to right; runs that overlap are one."""
        plain, at = _normalized(text)
        found = [*self._fragment_runs(plain), *self._short_runs(plain), *_shape_runs(plain)]
        if first:
            found += self._edge_runs(plain, self._tails, at_end=False)
        if last:
            found += [*self._edge_runs(plain, self._heads, at_end=True), *_open_shape_runs(plain)]
        merged: list[_Run] = []
        for run in sorted(found):
            if merged and run.start < merged[-1].end:
                before = merged.pop()
                run = _Run(before.start, max(before.end, run.end), before.name)
            merged.append(run)
        return [_Run(at.of(run.start), at.of(run.end - 1) + 1, run.name) for run in merged]

    def _fragment_runs(self, plain: str) -> list[_Run]:
        octets, fragments = self._octets, self._fragments
        found: list[_Run] = []
        hits = [
            start
            for start in range(0, len(plain), _WINDOW)
            if plain[start : start + _WINDOW] in octets
        ]
        for hit in hits:
            near = range(max(0, hit - FRAGMENT + _WINDOW), hit + 1)
            names = ((start, fragments.get(plain[start : start + FRAGMENT])) for start in near)
            found += [_Run(start, start + FRAGMENT, name) for start, name in names if name]
        return found

    def _short_runs(self, plain: str) -> list[_Run]:
        found = []
        for form, name in self._short.items():
            start = plain.find(form)
            while start >= 0:
                found.append(_Run(start, start + len(form), name))
                start = plain.find(form, start + 1)
        return found

    @staticmethod
    def _edge_runs(plain: str, edges: dict[str, str], *, at_end: bool) -> list[_Run]:
        for length in range(min(FRAGMENT - 1, len(plain)), EDGE - 1, -1):
            part = plain[-length:] if at_end else plain[:length]
            if name := edges.get(part):
                start = len(plain) - length if at_end else 0
                return [_Run(start, start + length, name)]
        return []


def _replaced(text: str, runs: list[_Run], start: int, end: int) -> str:
    """Return the text from `start` to `end` with a mark in place of each run."""
    done, at = [], start
    for run in runs:
        done += [text[at : run.start], f"[{run.name}]"]
        at = run.end
    done.append(text[at:end])
    return "".join(done)


class _Places:
    """Where the characters of a normalized text stand in the original."""

    def __init__(self) -> None:
        self._starts = [0]
        self._removed = [0]

    def skip(self, start: int, removed: int) -> None:
        """From `start` of the normalized text on, so many characters are missing in all."""
        self._starts.append(start)
        self._removed.append(removed)

    def of(self, place: int) -> int:
        return place + self._removed[bisect_right(self._starts, place) - 1]


def _normalized(text: str) -> tuple[str, _Places]:
    places, removed = _Places(), 0
    for gap in BREAK.finditer(text):
        removed += gap.end() - gap.start()
        places.skip(gap.end() - removed, removed)
    return (normalize(text) if removed else text), places


def _has_anchor(text: str) -> bool:
    return any(map(text.__contains__, _ANCHORS))


def _shape_runs(plain: str) -> list[_Run]:
    if not _has_anchor(plain):
        return []
    return [_shape_run(found) for found in _WHOLE_SHAPES.finditer(plain)]


def _open_shape_runs(plain: str) -> list[_Run]:
    """Return the token that the end of the text cuts off, if enough of it is there to matter."""
    found = _OPEN_SHAPES.search(plain[-_TAIL:])
    if found is None:
        return []
    before = max(0, len(plain) - _TAIL)
    literal = SHAPES[(found.lastindex or 1) - 1].literal
    part = found[0][len(literal) :]
    # Names such as reef_settings begin like a token, too.
    looks_random = len(part) >= _MANY or any(each.isdigit() or each.isupper() for each in part)
    return [_shape_run(found, before)] if len(part) >= _FEW and looks_random else []


def _shape_run(found: re.Match[str], before: int = 0) -> _Run:
    shape = SHAPES[(found.lastindex or 1) - 1]
    start = found.start() + (len(shape.literal) if shape.keeps_literal else 0)
    return _Run(before + start, before + found.end(), shape.name)


def _gather(value: Any, texts: list[str], ordinary: set[str]) -> None:
    """Collect the texts of a JSON value that are long enough and not known to be ordinary."""
    if isinstance(value, dict):
        texts.extend([key for key in value if len(key) >= EDGE and key not in ordinary])
        value = value.values()
    elif not isinstance(value, list):
        value = [value]
    for each in value:
        # JSON has no subclasses, and this is the quickest way to ask.
        kind = type(each)
        if kind is str:
            if len(each) >= EDGE and each not in ordinary:
                texts.append(each)
        elif kind is dict or kind is list:
            _gather(each, texts, ordinary)


def _parts(text: str, length: int) -> frozenset[str]:
    parts = {text[start : start + length] for start in range(len(text) - length + 1)}
    return frozenset(part for part in parts if "\0" not in part)


def _windows_of(forms: list[str]) -> Iterable[int]:
    for form in forms:
        data = form.encode("utf-8", "replace") if len(form) >= FRAGMENT else b""
        for start in range(len(data) - _WINDOW + 1):
            yield memoryview(data[start : start + _WINDOW]).cast("Q")[0]
