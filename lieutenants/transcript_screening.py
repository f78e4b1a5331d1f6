"""Keeps secrets out of a transcript: streamed text, whole records, and what is still held back.

Text that may be the beginning of a secret is in no row. `Process.state` says where in the journal
it stands, so a follower that starts over reads it there again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from lieutenants import rpc
from lieutenants.exceptions import TransportError
from lieutenants.models import Process
from lieutenants.transports import get_transport
from versconfig.screening.screen import Screen

logger = logging.getLogger(__name__)

# So many characters of a block are kept, to be compared with its whole text when that comes.
MAX_KEPT = 16 << 20
MAX_BLOCK = 1_000_000

# Kind and number of a block of the message that the agent is saying.
Block = tuple[str, int]
# By block: the journal's offset, how many characters at the end of what follows there are held,
# and how many of these were shown.
State = dict[str, list[int]]


@dataclass
class _Stream:
    """One block of text as it comes."""

    held: str = ""
    shown: int = 0
    # The journal's offset from which on what is held can be read.
    since: int = 0
    # All that came, and what it was covered to but for what is held; None when not known.
    raw: list[str] | None = field(default_factory=list)
    covered: list[str] = field(default_factory=list)
    size: int = 0


@dataclass
class TranscriptScreening:
    """The screen of one process, its open streams, and what was covered since it was asked."""

    screen: Screen = field(default_factory=Screen)
    names: set[str] = field(default_factory=set)
    _streams: dict[Block, _Stream] = field(default_factory=dict)

    def use(self, screen: Screen) -> None:
        """Cover the secrets of this screen from now on."""
        if screen is not self.screen:
            self.screen = screen
            for stream in self._streams.values():
                stream.raw = None

    # -- streams --------------------------------------------------------------------------

    def feed(self, block: Block, text: str, offset: int) -> str:
        """Return what may be shown now; `offset` is where this pass begins in the journal."""
        stream = self._streams.setdefault(block, _Stream())
        piece = self.screen.feed(stream.held + text, self.names, shown=stream.shown)
        if piece.held <= len(text):
            stream.since = offset
        given = stream.held + text
        stream.held = given[len(given) - piece.held :] if piece.held else ""
        stream.shown = piece.shown
        stream.size += len(text)
        if stream.size > MAX_KEPT:
            stream.raw = None
        if stream.raw is not None:
            stream.raw.append(text)
            stream.covered.append(piece.covered)
        return piece.text

    def finish(self, block: Block) -> str:
        """Return the rest of a block that ends here."""
        stream = self._streams.pop(block, None)
        if stream is None:
            return ""
        return self.screen.feed(stream.held, self.names, shown=stream.shown, last=True).text

    def forget(self, block: Block) -> None:
        """Let go of a block whose whole text is known."""
        self._streams.pop(block, None)

    # -- whole records --------------------------------------------------------------------

    def cover(self, value: Any) -> Any:
        """Return a value of a record with all secrets covered."""
        return self.screen.cover_value(value, self.names)

    def cover_message(self, event: dict[str, Any]) -> Any:
        """The same for a whole message; what was streamed is not looked through again."""
        known = {}
        for stream in self._streams.values():
            if stream.raw:
                rest = self.screen.feed(stream.held, self.names, last=True).text
                known["".join(stream.raw)] = "".join(stream.covered) + rest
        return self.screen.cover_value(event, self.names, known)

    def take_names(self) -> list[str]:
        """Return the names of what was covered since this was asked last."""
        names, self.names = sorted(self.names), set()
        return names

    # -- across a restart of the worker ---------------------------------------------------

    def state(self) -> State:
        """Return where what is held back can be read again."""
        return {
            f"{kind}:{number}": [stream.since, len(stream.held), stream.shown]
            for (kind, number), stream in self._streams.items()
            if stream.held
        }

    def needed_from(self, offset: int) -> int:
        """Return from where on the journal may be read again, by a process that is at `offset`."""
        held = [stream.since for stream in self._streams.values() if stream.held]
        return min([offset, *held])

    def recover(self, process: Process, state: State) -> None:
        """Read again from the journal what was held back at the process's offset."""
        if not state:
            return
        begin = min(since for since, _, _ in state.values())
        records = _journal(process, begin)
        for name, (since, count, shown) in state.items():
            kind, _, number = name.partition(":")
            block = (kind, int(number))
            texts = [text for at, each, text in records if at >= since and each == block]
            held = "".join(texts)[-count:]
            if len(held) < count:
                logger.warning("%s: text that was held back is gone from its journal", process)
            self._streams[block] = _Stream(held, min(shown, len(held)), since, None)


def _journal(process: Process, begin: int) -> list[tuple[int, Block, str]]:
    """Return the pieces of text between `begin` and the process's offset, each with its place."""
    size = process.offset - begin
    read: Callable[[str, int, int], bytes] = get_transport(process.transport).read
    try:
        data = read(process.directory, begin, size) if size > 0 else b""
    except TransportError as error:
        logger.warning("cannot read the journal of %s: %s", process, error)
        return []
    found, at = [], begin
    for line in data.split(b"\n"):
        for record in rpc.split(line + b"\n")[0]:
            if record[0] in rpc.DELTA_KINDS:
                number = int(record[1])
                block = (rpc.DELTA_KINDS[record[0]], number if 0 <= number <= MAX_BLOCK else 0)
                found.append((at, block, str(record[2])))
        at += len(line) + 1
    return found
