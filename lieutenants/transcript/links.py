"""Addresses of the web in texts of agents, as links that lead nowhere else."""

from __future__ import annotations

import re
from collections.abc import Iterator
from urllib.parse import urlsplit

from django.utils.html import escape

REL = "noopener noreferrer nofollow"
_SCHEMES = frozenset({"http", "https"})
_URL = re.compile(r"\bhttps?://[^\s<>\"'`\\^{}|\x00-\x1f\x7f]{1,2000}", re.IGNORECASE)
# Marks at the end belong to the sentence, as do brackets that nothing opens.
_MARKS = ".,;:!?*_~"
_PAIRS = {")": "(", "]": "["}
_MAX_MARKS = 20


def is_web(url: str) -> bool:
    """Return whether this is an address of the web."""
    try:
        parts = urlsplit(url.strip())
    except ValueError:
        return False
    return parts.scheme.lower() in _SCHEMES


def split(text: str) -> Iterator[tuple[str, bool]]:
    """Yield the pieces of a text, each with whether it is an address of the web."""
    end = 0
    for found in _URL.finditer(text):
        url = _without_marks(found[0])
        if is_web(url) and len(url) > len("https://"):
            yield text[end : found.start()], False
            yield url, True
            end = found.start() + len(url)
    yield text[end:], False


def linked(text: str) -> str:
    """Return the text as HTML, with its addresses as links."""
    if "://" not in text:
        return escape(text)
    return "".join(
        f'<a href="{escape(piece)}" rel="{REL}" target="_blank">{escape(piece)}</a>'
        if is_url
        else escape(piece)
        for piece, is_url in split(text)
    )


def _without_marks(url: str) -> str:
    for _ in range(_MAX_MARKS):
        last = url[-1:]
        opening = _PAIRS.get(last)
        if not (last and last in _MARKS) and not (opening and url.count(opening) < url.count(last)):
            break
        url = url[:-1]
    return url
