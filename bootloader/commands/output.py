"""The output of a command as it is kept: its beginning and its end, with secrets masked."""

from __future__ import annotations

from reef_site.common.text import to_storable
from versconfig.screening.screen import Screen

# Characters of each stream; beyond that the middle is left out.
MAX_KEPT = 64 * 1024
_HEAD = MAX_KEPT // 2


class KeptOutput:
    """One stream. Nothing is kept before it is screened, so no secret is cut in two."""

    def __init__(self, screen: Screen) -> None:
        self._screen = screen
        self._pending = ""
        self._head = self._tail = ""
        self.size = 0

    def add(self, text: str) -> None:
        """Take some output."""
        self._screened(to_storable(text), last=False)

    def finish(self) -> None:
        """Note that there is no more."""
        self._screened("", last=True)

    def text(self) -> str:
        """Return what is kept so far, with a line about what is left out."""
        missing = self.size - len(self._head) - len(self._tail)
        if not missing:
            return self._head + self._tail
        return f"{self._head}\n[… {missing} characters are left out …]\n{self._tail}"

    def _screened(self, text: str, *, last: bool) -> None:
        pending = self._pending + text
        piece = self._screen.feed(pending, last=last, unheld=0)
        self._pending = pending[len(pending) - piece.held :] if piece.held else ""
        self._keep(piece.text)

    def _keep(self, text: str) -> None:
        self.size += len(text)
        room = _HEAD - len(self._head)
        self._head += text[:room] if room > 0 else ""
        rest = text[max(0, room) :]
        self._tail = (self._tail + rest)[-(MAX_KEPT - _HEAD) :]
