"""Frames between reef and a relay; see `relay`."""

from __future__ import annotations

import json
import zlib
from typing import Any, NamedTuple

MAX_FRAME_BYTES = 64 << 20


class Frame(NamedTuple):
    """A JSON object and, for a piece of a journal, its bytes."""

    head: dict[str, Any]
    data: bytes = b""


class Decoder:
    """Decodes the relay's stream. Raises ValueError if it is damaged."""

    def __init__(self) -> None:
        self._inflate = zlib.decompressobj()
        self._held = bytearray()
        self._head: dict[str, Any] | None = None

    def feed(self, data: bytes) -> list[Frame]:
        """Return the frames that are complete now."""
        try:
            self._held += self._inflate.decompress(data, MAX_FRAME_BYTES + 1 - len(self._held))
        except zlib.error as error:
            raise ValueError(f"the relay's stream is damaged: {error}") from None
        if len(self._held) > MAX_FRAME_BYTES or self._inflate.unconsumed_tail:
            raise ValueError("the relay sent too much at once")
        found = []
        while (frame := self._next()) is not None:
            found.append(frame)
        return found

    def _next(self) -> Frame | None:
        if self._head is None:
            end = self._held.find(b"\n")
            if end < 0:
                return None
            self._head = _parse_head(bytes(self._held[:end]))
            del self._held[: end + 1]
        size = self._head.get("z", 0)
        if len(self._held) < size:
            return None
        frame = Frame(self._head, bytes(self._held[:size]))
        del self._held[:size]
        self._head = None
        return frame


def _parse_head(line: bytes) -> dict[str, Any]:
    """Return the object of a line. Raises ValueError if the relay does not send such lines."""
    try:
        head = json.loads(line)
    except (ValueError, RecursionError):
        raise ValueError("the relay sent a line that is no JSON") from None
    if not isinstance(head, dict):
        raise ValueError("the relay sent a line that is no object")
    size = head.get("z", 0)
    if type(size) is not int or not 0 <= size <= MAX_FRAME_BYTES:
        raise ValueError("the relay sent a wrong size")
    return head


def encode(request: dict[str, Any]) -> bytes:
    """Return a request as a line."""
    return json.dumps(request, separators=(",", ":")).encode() + b"\n"
