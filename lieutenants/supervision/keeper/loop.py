"""Waiting for descriptors."""

from __future__ import annotations

import select
import sys
import time

TYPE_CHECKING = False  # importing typing would cost a megabyte
if TYPE_CHECKING:
    from collections.abc import Callable


def guard(work: Callable[..., object], *arguments: object) -> None:
    """Log any error, so that the agent never loses its keeper."""
    try:
        work(*arguments)
    except Exception:  # noqa: BLE001 - the top of the loop; the trace goes to keeper.log
        sys.excepthook(*sys.exc_info())
        time.sleep(0.05)


class Loop:
    """Descriptors, each with a function that is called when it is ready."""

    def __init__(self) -> None:
        self._poll = select.poll()
        self._handlers: dict[int, Callable[[], None]] = {}

    def watch(self, descriptor: int, handler: Callable[[], None], events: int = 0) -> None:
        """Call the handler when there is something to read, or for other events of poll()."""
        self._handlers[descriptor] = handler
        self._poll.register(descriptor, events or select.POLLIN)

    def change(self, descriptor: int, events: int) -> None:
        """Call the same handler for other events."""
        self._poll.modify(descriptor, events)

    def unwatch(self, descriptor: int) -> None:
        if self._handlers.pop(descriptor, None):
            self._poll.unregister(descriptor)

    def wait(self, timeout: int | None) -> None:
        """Wait for so many milliseconds at most, and call the handlers of what is ready."""
        for descriptor, _ in self._poll.poll(timeout):
            handler = self._handlers.get(descriptor)
            if handler is not None:
                guard(handler)
