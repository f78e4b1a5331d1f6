"""The stream of the fleet: notices which rows have changed, and events of the log."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Iterable

from reef_site.common.json_format import dumps
from reef_site.edge.event_log import LogClient, LogReader

# Interval of pings: clients take silence for a failure.
PING_SECONDS = 15.0
# Notices of this time are sent together.
NOTICE_SECONDS = 0.25
# Beyond this many VMs, a notice says only that there are many.
MAX_NODES = 200


class Listener:
    """A client of the fleet's stream, with the ids that changed since its last notice."""

    def __init__(self) -> None:
        self.changed: set[str] = set()
        # VMs, in the tree or in the registry; None if there are too many to name.
        self.nodes: set[str] | None = set()
        self.provisionings: set[str] = set()
        self.questions: set[str] = set()
        self.news = asyncio.Event()

    def tell(self, lieutenant_ids: Iterable[str]) -> None:
        """Add the ids of changed lieutenants."""
        self.changed.update(lieutenant_ids)
        self.news.set()

    def add_nodes(self, vm_ids: Iterable[str] | None) -> None:
        """Add the ids of changed VMs; None means that any VM may have changed."""
        if vm_ids is None:
            self.nodes = None
        elif self.nodes is not None:
            self.nodes.update(vm_ids)
            if len(self.nodes) > MAX_NODES:
                self.nodes = None
        self.news.set()

    def add_provisionings(self, ids: Iterable[str]) -> None:
        """Add the ids of changed provisionings."""
        self.provisionings.update(ids)
        self.news.set()

    def add_questions(self, ids: Iterable[str]) -> None:
        """Add the ids of questions that were asked or decided."""
        self.questions.update(ids)
        self.news.set()

    @property
    def has_changes(self) -> bool:
        """Return whether there is a notice to send."""
        named = self.changed or self.provisionings or self.questions
        return bool(named or self.nodes or self.nodes is None)

    def take(self) -> bytes:
        """Return the notices for all collected ids, and clear them."""
        self.news.clear()
        nodes, self.nodes = self.nodes, set()
        notices = _notice("lieutenants", self.changed)
        notices += _notice("provisionings", self.provisionings)
        notices += _notice("questions", self.questions)
        self.changed, self.provisionings, self.questions = set(), set(), set()
        if nodes is None:
            return notices + sse_event("nodes", {"many": True})
        return notices + _notice("nodes", nodes)


def _notice(kind: str, ids: set[str]) -> bytes:
    """Return the notice of these ids; empty without one."""
    return sse_event(kind, {"ids": sorted(ids)}) if ids else b""


async def chunks(
    listener: Listener, client: LogClient | None, log: LogReader
) -> AsyncGenerator[bytes, None]:
    """Yield the notices and events of one client, until its queue is too full."""
    if client is None:
        yield sse_event("hello", {})
        async for chunk in _live_chunks(listener, None):
            yield chunk
        return
    try:
        # The number is for clients that are cut off before the first event.
        yield sse_event("hello", {}, await log.begin(client))
        async for missed in log.join(client):
            if missed:
                yield missed
        async for chunk in _live_chunks(listener, client):
            yield chunk
    finally:
        log.leave(client)


async def _live_chunks(listener: Listener, client: LogClient | None) -> AsyncGenerator[bytes, None]:
    pinged, notice_at = time.monotonic(), 0.0
    while client is None or not client.is_over:
        listener.news.clear()
        if not notice_at and listener.has_changes:
            notice_at = time.monotonic() + NOTICE_SECONDS
        if notice_at and time.monotonic() >= notice_at:
            notice_at = 0.0
            yield listener.take()
        # Behind `take`, which clears `news` as well.
        if client and (chunk := client.take()):
            yield chunk
        if time.monotonic() >= pinged + PING_SECONDS:
            pinged = time.monotonic()
            yield _ping(client)
        until = min(pinged + PING_SECONDS, notice_at or float("inf"))
        # Unlike `wait_for`, this makes no task: most of what a client costs is this wait.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, until - time.monotonic())):
                await listener.news.wait()


def _ping(client: LogClient | None) -> bytes:
    """Return a ping; its number spares a client that gets few events the search for them."""
    return sse_event("ping", {}, client.position if client and not client.has_queued else None)


def sse_event(kind: str, data: object, number: int | None = None) -> bytes:
    """Return a server-sent event."""
    first = b"" if number is None else b"id: %d\n" % number
    return b"%sevent: %s\ndata: %s\n\n" % (first, kind.encode(), dumps(data))
