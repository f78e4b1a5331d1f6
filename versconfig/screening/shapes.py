"""Tokens that are recognised by their form, because reef stores only hashes of them."""

from __future__ import annotations

import re
from typing import NamedTuple

TAIL = 160
# At the end of a text, a literal with this many characters behind it is the beginning of a token:
# the first number if they look random, else the second.
_MIN_RANDOM, _MIN_ANY = 3, 24
_WORD = "[A-Za-z0-9_-]"
_BASE64 = "[A-Za-z0-9+/_-]"


class Run(NamedTuple):
    """A part of a text to mask."""

    start: int
    end: int
    name: str
    # Whether it is one of the pieces of a long value.
    is_piece: bool = False


class _Shape(NamedTuple):
    """A literal followed by this many characters."""

    name: str
    literal: str
    sign: str
    length: int
    # Whether the literal stays visible: it is not part of the secret.
    keeps_literal: bool = False


def _shapes() -> list[_Shape]:
    node, join, operator = "VERS_AUTH_TOKEN", "join token", "operator token"
    found = [
        _Shape(node, "reef_", _WORD, 43),
        _Shape(join, "reefjoin_", _WORD, 43),
        _Shape(operator, "reefop_", _WORD, 43),
        _Shape("sign-in link", "/signin/", _WORD, 32, keeps_literal=True),
    ]
    # The base64 forms of `reef_`, `reefjoin_` and `reefop_` behind 0, 1 or 2 other bytes.
    for name, literals in (
        (node, (("cmVlZl", 57), ("JlZWZf", 57), ("yZWVmX", 57))),
        (join, (("cmVlZmpvaW5f", 57), ("JlZWZqb2luX", 57), ("yZWVmam9pbl", 57))),
        (operator, (("cmVlZm9wX", 56), ("JlZWZvcF", 57), ("yZWVmb3Bf", 57))),
    ):
        found += [_Shape(name, literal, _BASE64, count) for literal, count in literals]
    return found


_SHAPES = _shapes()
LITERALS = tuple(shape.literal for shape in _SHAPES)
_WHOLE = re.compile(
    "|".join(f"({re.escape(each.literal)}){each.sign}{{{each.length}}}" for each in _SHAPES)
)
_OPEN = re.compile(
    "|".join(
        f"({re.escape(each.literal)}){each.sign}{{0,{each.length - 1}}}\\Z" for each in _SHAPES
    )
)
# One of these is part of every literal.
_ANCHORS = ("reef", "/signin/", "cmVlZ", "JlZWZ", "yZWVm")
_BASE64_ANCHORS = (b"cmVlZ", b"JlZWZ", b"yZWVm")


def may_hold(data: bytes) -> bool:
    """Return whether the text may contain a token; fast, with false positives."""
    # Searching for one byte is much faster than for five; each shape contains one of these.
    return (
        (b"_" in data and b"reef" in data)
        or (b"/" in data and b"/signin/" in data)
        or (b"Z" in data and any(map(data.__contains__, _BASE64_ANCHORS)))
    )


def whole_runs(plain: str) -> list[Run]:
    """Return all complete tokens in the text."""
    if not any(map(plain.__contains__, _ANCHORS)):
        return []
    return [_run(found) for found in _WHOLE.finditer(plain)]


def open_runs(plain: str) -> list[Run]:
    """Return the token that the end of the text cuts off, if enough of it is there to matter."""
    found = _OPEN.search(plain[-TAIL:])
    if found is None:
        return []
    before = max(0, len(plain) - TAIL)
    literal = _SHAPES[(found.lastindex or 1) - 1].literal
    part = found[0][len(literal) :]
    # Names such as reef_settings begin like a token.
    looks_random = len(part) >= _MIN_ANY or any(each.isdigit() or each.isupper() for each in part)
    return [_run(found, before)] if len(part) >= _MIN_RANDOM and looks_random else []


def open_at(plain: str) -> int:
    """Return the offset where a token may begin that continues after the text, else the length."""
    before = max(0, len(plain) - TAIL)
    found = _OPEN.search(plain[before:])
    return before + found.start() if found else len(plain)


def _run(found: re.Match[str], before: int = 0) -> Run:
    shape = _SHAPES[(found.lastindex or 1) - 1]
    start = found.start() + (len(shape.literal) if shape.keeps_literal else 0)
    return Run(before + start, before + found.end(), shape.name)
