"""HTML of texts that was made before, up to a number of characters."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from hashlib import blake2b
from threading import Lock

from django.utils.safestring import SafeString


class Remembered:
    """The HTML of the texts that were shown last, by digests of the texts."""

    def __init__(self, max_chars: int) -> None:
        self._max_chars = max_chars
        self._chars = 0
        self._found: OrderedDict[bytes, SafeString] = OrderedDict()
        self._lock = Lock()

    def get(self, text: str, render: Callable[[], SafeString]) -> SafeString:
        """Return the HTML of a text; `render` makes it if it is not known."""
        key = blake2b(text.encode(errors="surrogatepass"), digest_size=16).digest()
        with self._lock:
            if (html := self._found.get(key)) is not None:
                self._found.move_to_end(key)
                return html
        html = render()
        with self._lock:
            if key not in self._found and len(html) <= self._max_chars:
                self._found[key] = html
                self._chars += len(html)
            while self._chars > self._max_chars:
                _, dropped = self._found.popitem(last=False)
                self._chars -= len(dropped)
        return html
