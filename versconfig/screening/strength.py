"""Decides which secret values are distinctive enough to be masked in texts.

Only values of keys that are declared secret get here. A short one, or one that looks like an
ordinary word, would match all over a transcript: masking it would hide the text and reveal the
value.
"""

from __future__ import annotations

import re

MIN_LENGTH = 8
MIN_DISTINCT = 5
# Shorter values of digits only are dates, ports, sizes.
MIN_DIGITS = 16
# Shorter values of lower or upper case letters and separators only are words and names.
MIN_WORDS = 16

_DIGITS = re.compile(r"[\d\s.,:/+-]+")
_WORDS = re.compile(r"[a-z\s._:/-]+|[A-Z\s._:/-]+|[A-Z][a-z]+")
_HOST = re.compile(r"[a-z0-9-]+(\.[a-z0-9-]+)*\.[a-z]{2,}(:\d+)?")
_URL = re.compile(r"[a-z][a-z0-9+.-]*://[^\s@?#]+")
_MODEL = re.compile(r"[a-z][a-z-]*/[a-z]+[a-z0-9.:-]{0,40}")
_VARIABLE = re.compile(r"[A-Z][A-Z0-9]*(_[A-Z0-9]+)+")
_EDGES = re.compile(r"^[\W\d_]+|[\W\d_]+$")
_WORD_LIST = """
admin administrator changeme change default demo dummy example false foobar guest hello letmein
localhost master none null password passwd placeholder production qwerty root sample secret staging
test testing token undefined unknown welcome
"""
_COMMON = frozenset(_WORD_LIST.split())


def is_distinctive(value: str) -> bool:
    """Return whether the value can be told apart from ordinary text."""
    value = value.strip()
    if len(value) < MIN_LENGTH or len(set(value)) < MIN_DISTINCT:
        return False
    if len(value) < MIN_DIGITS and _DIGITS.fullmatch(value):
        return False
    if len(value) < MIN_WORDS and _WORDS.fullmatch(value):
        return False
    if _EDGES.sub("", value).lower() in _COMMON:
        return False
    return not any(form.fullmatch(value) for form in (_HOST, _URL, _MODEL, _VARIABLE))
