"""Covers secrets in transcripts, in streamed text as well as in complete records.

Text that may be the beginning of a secret is held back and in no row. `Process.state` has its
position in the journal, so that a restarted follower reads it again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from lieutenants.exceptions import TransportError
from lieutenants.models import Process
from lieutenants.supervision import journal
from lieutenants.supervision.transports import transport_of
from versconfig.screening.screen import Screen

logger = logging.getLogger(__name__)

# Up to this many characters of a block are kept, to compare them with its complete text later.
MAX_KEPT_CHARACTERS = 16 << 20
MAX_BLOCK = 1_000_000

# Kind and number of a block in the agent's current message.
Block = tuple[str, int]
# By block: offset in the journal, number of characters held back at the end of the text from there
# on, and how many of these are shown.
State = dict[str, list[int]]


@dataclass
class _Stream:
    """One block of text while it is streamed."""

    held: str = ""
    shown: int = 0
    # Offset in the journal from which the held text can be read.
    since: int = 0
    # Received pieces, and their covered text without the held part; None if unknown.
    raw: list[str] | None = field(default_factory=list)
    covered: list[str] = field(default_factory=list)
    size: int = 0


@dataclass
class TranscriptScreening:
    """Screen of one process, its open streams, and the names of the secrets it covered."""

    screen: Screen = field(default_factory=Screen)
    names: set[str] = field(default_factory=set)
    _streams: dict[Block, _Stream] = field(default_factory=dict)

    def use(self, screen: Screen) -> None:
        """Replace the screen."""
        if screen is not self.screen:
            self.screen = screen
            for stream in self._streams.values():
                stream.raw = None

    # -- streams --------------------------------------------------------------------------

    def feed(self, block: Block, text: str, offset: int) -> str:
        """Return the text that may be shown now; `offset` is the journal offset of this batch."""
        stream = self._streams.get(block)
        if stream is None:
            stream = self._streams[block] = _Stream()
        given = stream.held + text
        piece = self.screen.feed(given, self.names, shown=stream.shown)
        if piece.held <= len(text):
            stream.since = offset
        stream.held = given[len(given) - piece.held :] if piece.held else ""
        stream.shown = piece.shown
        stream.size += len(text)
        if stream.size > MAX_KEPT_CHARACTERS:
            stream.raw = None
        if stream.raw is not None:
            stream.raw.append(text)
            stream.covered.append(piece.covered)
        return piece.text

    def finish(self, block: Block) -> str:
        """Return the rest of a block that has ended."""
        stream = self._streams.pop(block, None)
        if stream is None:
            return ""
        return self.screen.feed(stream.held, self.names, shown=stream.shown, last=True).text

    def forget(self, block: Block) -> None:
        """Drop a block whose complete text is known."""
        self._streams.pop(block, None)

    # -- whole records --------------------------------------------------------------------

    def cover(self, value: Any) -> Any:
        """Return the value with all secrets covered."""
        return self.screen.cover_value(value, self.names)

    def cover_message(self, event: dict[str, Any]) -> Any:
        """Cover a complete message, reusing the results for text that was streamed."""
        known = {}
        for stream in self._streams.values():
            if stream.raw:
                rest = self.screen.feed(stream.held, self.names, last=True).text
                known["".join(stream.raw)] = "".join(stream.covered) + rest
        return self.screen.cover_value(event, self.names, known)

    def take_names(self) -> list[str]:
        """Return the names of the secrets that were covered since the last call."""
        names, self.names = sorted(self.names), set()
        return names

    # -- across a restart of the worker ---------------------------------------------------

    def state(self) -> State:
        """Return the positions of the held text, by block."""
        return {
            f"{kind}:{number}": [stream.since, len(stream.held), stream.shown]
            for (kind, number), stream in self._streams.items()
            if stream.held
        }

    def needed_from(self, offset: int) -> int:
        """Return the offset from which the journal is needed, for a process that is at `offset`."""
        held = [stream.since for stream in self._streams.values() if stream.held]
        return min([offset, *held])

    def recover(self, process: Process, state: State) -> None:
        """Read the held text again from the journal."""
        if not state:
            return
        begin = held_from(state, process.offset)
        records = _journal(process, begin)
        for name, (since, count, shown) in state.items():
            kind, _, number = name.partition(":")
            block = (kind, int(number))
            texts = [text for at, each, text in records if at >= since and each == block]
            held = "".join(texts)[-count:]
            if len(held) < count:
                logger.warning("%s: text that was held back is gone from its journal", process)
            self._streams[block] = _Stream(held, min(shown, len(held)), since, None)


def held_from(state: State, offset: int) -> int:
    """Return the offset where the first held text of a stored state begins."""
    return min([offset, *(since for since, _, _ in state.values())])


def _journal(process: Process, begin: int) -> list[tuple[int, Block, str]]:
    """Return the text deltas between `begin` and the process's offset, with their offsets."""
    size = process.offset - begin
    read: Callable[[str, int, int], bytes] = transport_of(process).read
    try:
        data = read(process.directory, begin, size) if size > 0 else b""
    except TransportError as error:
        logger.warning("cannot read the journal of %s: %s", process, error)
        return []
    found, at = [], begin
    for line in data.split(b"\n"):
        for record in journal.split(line + b"\n")[0]:
            if record[0] in journal.DELTA_KINDS:
                number = int(record[1])
                block = (journal.DELTA_KINDS[record[0]], number if 0 <= number <= MAX_BLOCK else 0)
                found.append((at, block, str(record[2])))
        at += len(line) + 1
    return found
