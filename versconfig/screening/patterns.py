"""Patterns to search texts for, compiled once for each value and then cached.

A *whole* pattern matches a complete form or nothing. A *partial* pattern also matches fragments and
edges: it is only for values that the author of the text has anyway, because anybody else could use
it to guess a secret, one character after the other.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple

from versconfig.screening.spellings import base64_forms, plain_forms
from versconfig.screening.strength import is_distinctive

# A fragment is this many consecutive characters of a value.
FRAGMENT = 16
# An edge is this many characters: where a text begins or ends within a value. For base64 it is
# longer.
EDGE = 8
EDGE_BASE64 = 11
WINDOW = 8
NGRAM = 4
# Characters that a stream compares before it holds text back. Masks show as many, so it reveals
# nothing.
HEAD = 3
# A longer form is split into pieces, each of which is searched separately.
MAX_FORM, _PIECE, _MIN_PIECE = 512, 256, 32
_CACHED = 4096


class WholeForm(NamedTuple):
    """A form of a value, or one piece of a long form."""

    text: str
    is_piece: bool


class WholePattern(NamedTuple):
    """All forms of one value."""

    forms: tuple[WholeForm, ...]
    # Wherever a form occurs, one of these windows lies at a multiple of `WINDOW`.
    windows: frozenset[int]
    # The same windows as texts, each with its form and its offset there.
    places: tuple[tuple[str, tuple[WholeForm, int]], ...]


class PartialPattern(NamedTuple):
    """All fragments, edges and forms of one value."""

    forms: tuple[str, ...]
    fragments: tuple[str, ...]
    heads: tuple[str, ...]
    tails: tuple[str, ...]
    windows: frozenset[int]
    octets: frozenset[str]
    ngrams: frozenset[str]


@lru_cache(_CACHED)
def whole_pattern(value: str) -> WholePattern:
    """Compile a value; one that is too ordinary has no forms."""
    if not is_distinctive(value):
        return WholePattern((), frozenset(), ())
    value = value.strip()
    lines = [line for line in value.splitlines() if not line.startswith("-----")]
    forms = [WholeForm(each, len(lines) > 1) for each in _joined(lines)] if len(lines) > 1 else []
    for form in (*plain_forms(value), *base64_forms(value)):
        if len(form) > MAX_FORM:
            starts = range(0, len(form), _PIECE)
            forms += [WholeForm(form[start : start + _PIECE], True) for start in starts]
        else:
            forms.append(WholeForm(form, False))
    found = tuple(dict.fromkeys(each for each in forms if len(each.text) >= EDGE))
    long = [each for each in found if len(each.text) >= FRAGMENT]
    windows = frozenset(window for each in long for window in _windows(each.text, WINDOW))
    places = tuple(
        (each.text[start : start + WINDOW], (each, start))
        for each in long
        for start in range(WINDOW)
    )
    return WholePattern(found, windows, places)


@lru_cache(_CACHED // 8)
def partial_pattern(value: str) -> PartialPattern:
    """Compile a value with its fragments and edges."""
    forms: list[str] = []
    heads: list[str] = []
    tails: list[str] = []
    value = value.strip()
    edges = [(form, EDGE) for form in plain_forms(value)]
    edges += [(form, EDGE_BASE64) for form in base64_forms(value)]
    for form, edge in edges if is_distinctive(value) else ():
        if len(form) < EDGE:
            continue
        forms.append(form)
        lengths = range(edge, min(FRAGMENT, len(form)))
        heads += [form[:length] for length in lengths]
        tails += [form[-length:] for length in lengths]
    return PartialPattern(
        tuple(forms),
        tuple(parts(forms, FRAGMENT)),
        tuple(heads),
        tuple(tails),
        frozenset(window for form in forms for window in _windows(form)),
        frozenset(parts([form for form in forms if len(form) >= FRAGMENT], WINDOW)),
        frozenset(parts(forms, NGRAM)),
    )


def parts(texts: Iterable[str], length: int) -> list[str]:
    """Return all parts of this length."""
    return [
        text[start : start + length] for text in texts for start in range(len(text) - length + 1)
    ]


def _joined(lines: Iterable[str]) -> list[str]:
    """Return the lines, short ones joined with the line before."""
    found: list[str] = []
    for line in lines:
        if found and (len(line) < _MIN_PIECE or len(found[-1]) < _MIN_PIECE):
            found[-1] += line
        else:
            found.append(line)
    return [each[:MAX_FORM] for each in found]


def _windows(form: str, count: int = MAX_FORM << 8) -> Iterable[int]:
    """Return the first windows of a form that is long enough, as numbers."""
    data = form.encode("utf-8", "replace") if len(form) >= FRAGMENT else b""
    for start in range(min(count, len(data) - WINDOW + 1)):
        yield memoryview(data[start : start + WINDOW]).cast("Q")[0]
