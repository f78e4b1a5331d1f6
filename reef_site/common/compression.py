"""Compression of large JSON responses."""

from __future__ import annotations

import gzip
import re

MIN_COMPRESSED = 4096
# The fastest: on one machine, more would take longer than sending the bytes.
LEVEL = 1
_ACCEPTS_GZIP = re.compile(r"\bgzip\b(?!\s*;\s*q=0(?:\.0*)?\s*(?:,|$))", re.I)


def accepts_gzip(header: str) -> bool:
    """Return whether this value of Accept-Encoding allows gzip."""
    return _ACCEPTS_GZIP.search(header) is not None


def compress(body: bytes) -> bytes:
    """Return the body compressed, always to the same bytes."""
    return gzip.compress(body, LEVEL, mtime=0)
