"""Reading from pipes."""

from __future__ import annotations

import os

from .limits import READ_BYTES


def read_some(descriptor: int) -> bytes | None:
    """Return available bytes: None if there are none yet, empty at the end."""
    try:
        return os.read(descriptor, READ_BYTES)
    except BlockingIOError:
        return None


def read_all(descriptor: int) -> bytes:
    """Read until the end."""
    data = bytearray()
    while True:
        chunk = os.read(descriptor, READ_BYTES)
        if not chunk:
            return bytes(data)
        data += chunk
