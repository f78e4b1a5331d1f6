"""Masks secrets in texts and JSON values. Pure: text in, text out.

A `Screen` is compiled once for a set of secrets. Each whole value becomes `[NAME]`. For the `own`
secrets, which the author of the texts has anyway, fragments become `[NAME]` as well, and so does
the rest of a value where a text begins or ends within it. Tokens that are stored as hashes only are
recognised by their shape.

A clean text costs one pass: wherever a form of a secret occurs, one of a few of its 8-byte windows
lies at a multiple of 8, so only the text's windows at these offsets are looked up in a set.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from versconfig.screening import shapes
from versconfig.screening.patterns import (
    EDGE,
    FRAGMENT,
    HEAD,
    NGRAM,
    WINDOW,
    WholeForm,
    partial_pattern,
    parts,
    whole_pattern,
)
from versconfig.screening.shapes import Run
from versconfig.screening.spellings import BREAK, normalize

# A stream shows up to this many characters at its end although a secret may begin with them.
# Otherwise the newest letters of nearly every text would be held back.
MAX_UNHELD_CHARS = HEAD

_BLOCK = 1 << 16
_MAX_ORDINARY, _SHORT_TEXT = 4096, 40


class Secret(NamedTuple):
    """A value to mask, and the name that replaces it, in brackets."""

    name: str
    value: str


class Piece(NamedTuple):
    """The next part that a stream shows, and how many characters at its end must be passed in
    again.

    The first `shown` of these were shown already: they are too few to hold back. `covered` is the
    input without the held characters, as `cover` would return it.
    """

    text: str
    held: int = 0
    shown: int = 0
    covered: str = ""


class Screen:
    """A compiled set of secrets."""

    def __init__(self, secrets: Iterable[Secret] = (), own: Iterable[Secret] = ()) -> None:
        """Compile the secrets.

        `own` are secrets that the author of the texts has; all others are matched as a whole only.
        """
        self._names: dict[str, str] = {}
        self._short: dict[str, str] = {}
        self._windows: set[int] = set()
        self._compile_own({each.value: each.name for each in reversed(list(own))})
        self._compile_whole({each.value: each.name for each in reversed(list(secrets))})
        # Short texts without secrets, such as keywords of the agent's protocol.
        self._ordinary: set[str] = set()
        self._short_bytes = [each.encode() for each in self._short]

    def _compile_own(self, secrets: dict[str, str]) -> None:
        self._own = frozenset(secrets)
        self._fragments: dict[str, str] = {}
        self._heads: dict[str, str] = {}
        self._tails: dict[str, str] = {}
        self._octets: set[str] = set()
        self._ngrams = set(parts(shapes.LITERALS, NGRAM))
        forms: list[str] = []
        for value, name in secrets.items():
            pattern = partial_pattern(value)
            self._fragments.update(dict.fromkeys(pattern.fragments, name))
            self._heads.update(dict.fromkeys(pattern.heads, name))
            self._tails.update(dict.fromkeys(pattern.tails, name))
            self._short.update({each: name for each in pattern.forms if len(each) < FRAGMENT})
            self._windows |= pattern.windows
            self._octets |= pattern.octets
            self._ngrams |= pattern.ngrams
            forms += pattern.forms
        # Without their last characters: a complete form has nothing to wait for.
        self._begun = "\0".join([*(each[:-1] for each in forms), *shapes.LITERALS])

    def _compile_whole(self, secrets: dict[str, str]) -> None:
        self._places: dict[str, list[tuple[WholeForm, int]]] = {}
        # Maps the first characters of forms to the length of the longest; the second map has forms
        # with blanks only.
        self._openings: dict[str, int] = {}
        self._spaced_openings: dict[str, int] = {}
        for value, name in secrets.items():
            if value in self._own:
                continue
            pattern = whole_pattern(value)
            self._windows |= pattern.windows
            for window, place in pattern.places:
                self._places.setdefault(window, []).append(place)
            for form in pattern.forms:
                self._add_whole(form.text, name)
        self._longest = max(self._openings.values(), default=0)
        self._tail = max(shapes.TAIL, 3 * self._longest)

    def _add_whole(self, form: str, name: str) -> None:
        self._names[form] = name
        if len(form) < FRAGMENT:
            self._short[form] = name
        size = len(form)
        for length in range(1, HEAD + 1):
            head = form[:length]
            self._openings[head] = max(size, self._openings.get(head, 0))
            if " " in form or "\t" in form:
                self._spaced_openings[head] = max(size, self._spaced_openings.get(head, 0))

    # -- whole texts ----------------------------------------------------------------------

    def cover(self, text: str, names: set[str] | None = None) -> str:
        """Return the text with all secrets masked; add their names to `names`."""
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

    def runs(self, text: str) -> list[Run]:
        """Return where the text has secrets, from left to right."""
        if len(text) < EDGE:
            return []
        edge = self._has_edge(text)
        suspect = edge or self._may_hold(text)
        return self._runs(text, first=edge, last=edge) if suspect else []

    def cover_value(
        self, value: Any, names: set[str] | None = None, known: Mapping[str, str] | None = None
    ) -> Any:
        """Return a JSON value with all secrets in its texts and keys masked.

        `known` maps texts that were screened before to their masked form.
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
        unheld: int = MAX_UNHELD_CHARS,
    ) -> Piece:
        """Return what a stream shows next of the text, which begins with what was held before.

        `shown` is that of the previous piece; with `last` nothing is held back.
        """
        if last and len(text) < EDGE:
            return Piece(text[shown:], covered=text)
        suspect = last or self._may_hold(text)
        if not suspect and unheld and not self._may_begin(text):
            # Shown, and passed in again: a secret may begin with these.
            kept = min(unheld, len(text))
            return Piece(text[shown:], kept, kept, text[:-kept] if kept else "")
        found: set[str] = set()
        runs = self._runs(text, first=False, last=last) if suspect else []
        cut = self._cut(text, runs, last=last)
        piece = self._piece(text, runs, found, cut=cut, shown=shown)
        if names is not None:
            names |= found
        if 0 < piece.held <= unheld:
            rest = text[max(cut, shown) :]
            return Piece(piece.text + rest, piece.held, piece.held, piece.covered)
        return piece

    @staticmethod
    def _piece(text: str, runs: list[Run], names: set[str], *, cut: int, shown: int = 0) -> Piece:
        """Mask all runs up to the cut; the rest is held back."""
        runs = [run for run in runs if run.end <= cut]
        names |= {run.name for run in runs}
        covered = _replaced(text, runs, 0, cut)
        new = _replaced(text, runs, shown, cut) if shown else covered
        return Piece(new, len(text) - cut, max(0, shown - cut), covered)

    def _cut(self, text: str, runs: list[Run], *, last: bool) -> int:
        """Return the end of the part that later text cannot change."""
        if last:
            return len(text)
        cut = self._safe_end(text)
        return min([cut, *(run.start for run in runs if run.start < cut < run.end)])

    def _safe_end(self, text: str) -> int:
        """Return the offset before which no secret can begin that continues after the text."""
        tail = text[-self._tail :]
        if tail.endswith("\\"):
            # This may be the first half of an escaped line break.
            before = self._safe_end(text[:-1])
            return before if before < len(text) - 1 else len(text)
        plain, at = _normalized(tail)
        end = len(plain)
        start = min(shapes.open_at(plain), self._open_at(plain))
        length = 1
        while length <= min(FRAGMENT - 1, end) and plain[end - length :] in self._begun:
            start = min(start, end - length)
            length += 1
        return len(text) if start == end else len(text) - len(tail) + at.of(start)

    def _open_at(self, plain: str) -> int:
        """Return the offset where a whole value may begin that continues after the text.

        Only its first characters are compared: holding text back must not reveal whether a guess of
        the rest is right.
        """
        end = len(plain)
        first = max(0, end - self._longest + 1)
        blank = max(plain.rfind(" "), plain.rfind("\t")) + 1
        for start in range(first if self._spaced_openings else max(first, blank), end):
            openings = self._openings if start >= blank else self._spaced_openings
            if end - start < openings.get(plain[start : start + HEAD], 0):
                return start
        return end

    def _may_begin(self, text: str) -> bool:
        """Return whether a clean text may end with more of a secret than may be shown."""
        end = text[-NGRAM - 1 :]
        if end[-NGRAM:] in self._ngrams or "\n" in end or "\\" in end or "\r" in end:
            return True
        tail = text[-self._longest :] if self._longest else ""
        word = tail if self._spaced_openings else tail[tail.rfind(" ") + 1 :]
        if "\n" in word or "\\" in word or "\r" in word:
            return True
        return self._open_at(word) < len(word) - MAX_UNHELD_CHARS

    # -- finding --------------------------------------------------------------------------

    def _may_hold(self, text: str) -> bool:
        """Return whether the text may contain a secret; fast, with false positives."""
        data = text.encode("utf-8", "replace").translate(None, b"\r\n")
        if b"\\" in data:
            data = data.replace(b"\\n", b"").replace(b"\\r", b"")
        whole = len(data) & -WINDOW
        if not self._windows.isdisjoint(memoryview(data)[:whole].cast("Q")):
            return True
        if shapes.may_hold(data):
            return True
        return bool(self._short_bytes) and any(map(data.__contains__, self._short_bytes))

    def _has_edge(self, text: str) -> bool:
        """Return whether the text may begin or end within an own secret; fast."""
        ngrams = self._ngrams
        return text[-shapes.TAIL :].rstrip("\r\n")[-NGRAM:] in ngrams or text[:NGRAM] in ngrams

    def _runs(self, text: str, *, first: bool, last: bool) -> list[Run]:
        """Return the runs to mask, from left to right; overlapping runs are merged."""
        plain, at = _normalized(text)
        found = [*self._long_runs(plain), *self._short_runs(plain), *shapes.whole_runs(plain)]
        if first:
            found += self._edge_runs(plain, self._tails, at_end=False)
        if last:
            found += [*self._edge_runs(plain, self._heads, at_end=True), *shapes.open_runs(plain)]
        merged: list[Run] = []
        for run in sorted(found):
            if merged and _are_one(merged[-1], run):
                before = merged.pop()
                run = run._replace(
                    start=before.start, end=max(before.end, run.end), name=before.name
                )
            merged.append(run)
        return [Run(at.of(run.start), at.of(run.end - 1) + 1, run.name) for run in merged]

    def _long_runs(self, plain: str) -> list[Run]:
        """Return whole forms, and fragments of own secrets."""
        found: list[Run] = []
        places, octets = self._places, self._octets
        hits = [
            (hit, window)
            for hit in range(0, len(plain), WINDOW)
            if (window := plain[hit : hit + WINDOW]) in places or window in octets
        ]
        for hit, window in hits:
            for form, offset in places.get(window, ()):
                if hit >= offset and plain.startswith(form.text, hit - offset):
                    start = hit - offset
                    name = self._names[form.text]
                    found.append(Run(start, start + len(form.text), name, form.is_piece))
            if window in octets:
                found += self._fragment_runs(plain, hit)
        return found

    def _fragment_runs(self, plain: str, hit: int) -> list[Run]:
        near = range(max(0, hit - FRAGMENT + WINDOW), hit + 1)
        names = ((start, self._fragments.get(plain[start : start + FRAGMENT])) for start in near)
        return [Run(start, start + FRAGMENT, name) for start, name in names if name]

    def _short_runs(self, plain: str) -> list[Run]:
        found = []
        for form, name in self._short.items():
            start = plain.find(form)
            while start >= 0:
                found.append(Run(start, start + len(form), name))
                start = plain.find(form, start + 1)
        return found

    @staticmethod
    def _edge_runs(plain: str, edges: dict[str, str], *, at_end: bool) -> list[Run]:
        for length in range(min(FRAGMENT - 1, len(plain)), EDGE - 1, -1):
            part = plain[-length:] if at_end else plain[:length]
            if name := edges.get(part):
                start = len(plain) - length if at_end else 0
                return [Run(start, start + length, name)]
        return []


def _are_one(before: Run, run: Run) -> bool:
    """Return whether two runs get one mark: they overlap, or are pieces of one long value."""
    if run.start < before.end:
        return True
    both = before.is_piece and run.is_piece and before.name == run.name
    return both and run.start == before.end


def _replaced(text: str, runs: list[Run], start: int, end: int) -> str:
    """Return the text from `start` to `end` with a mark in place of each run."""
    done, at = [], start
    for run in runs:
        done += [text[at : run.start], f"[{run.name}]"]
        at = run.end
    done.append(text[at:end])
    return "".join(done)


class _Places:
    """Maps offsets of a normalized text to the original."""

    def __init__(self) -> None:
        self._starts = [0]
        self._removed = [0]

    def skip(self, start: int, removed: int) -> None:
        """Record that from `start` of the normalized text on, `removed` characters are missing in
        all.
        """
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


def _gather(value: Any, texts: list[str], ordinary: set[str]) -> None:
    """Collect the texts of a JSON value that are long enough and not known as ordinary."""
    if isinstance(value, dict):
        texts.extend([key for key in value if len(key) >= EDGE and key not in ordinary])
        value = value.values()
    elif not isinstance(value, list):
        value = [value]
    for each in value:
        # JSON has no subclasses, and this is the fastest check.
        kind = type(each)
        if kind is str:
            if len(each) >= EDGE and each not in ordinary:
                texts.append(each)
        elif kind is dict or kind is list:
            _gather(each, texts, ordinary)
