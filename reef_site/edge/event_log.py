"""The event log as a stream: one reader for all clients of an edge.

Each time something was recorded, the reader reads the new events once, and queues them for the
clients that may and want to see them. It keeps the newest ones, so that clients that come back
after a short while need no query.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any
from weakref import WeakValueDictionary

from reef_site.activity.filters import EventFilter, lines_of
from reef_site.activity.serializers import event_json
from reef_site.activity.visibility import DETAILS, Sight
from reef_site.common.eventlog import reading
from reef_site.common.eventlog.models import Event
from reef_site.common.json_format import dumps
from reef_site.edge.revocation import QueryThread

logger = logging.getLogger(__name__)

# Events of this time are sent together; with many clients a little more, since each sending costs
# the edge about 30 µs for each of them.
COLLECT_SECONDS = 0.05
MAX_COLLECT_SECONDS = 0.1
COLLECT_SECONDS_A_CLIENT = 0.00005
# The log is read at this interval even without notifications, since Redis may be down; sooner while
# a transaction holds back later events.
POLL_SECONDS = 2.0
POLL_UNCERTAIN_SECONDS = 0.1
BATCH_SIZE = 500
MAX_RECENT = 2000
# Limit on what is queued for a slow client. It is disconnected then, and continues where it was.
MAX_QUEUED_BYTES = 2 << 20


@dataclass(frozen=True)
class Wanted:
    """The events that one client gets: those that it may read and that pass its filter."""

    sight: Sight
    filter: EventFilter

    def chunk(self, events: Iterable[LoggedEvent]) -> bytes:
        """Return those of the events that the client gets, as it gets them."""
        return b"".join(
            event.full if self.sight.sees_detail(event.row.topic, event.line) else event.bare
            for event in events
            if self.sight.sees(event.row.topic, event.line)
            and self.filter.matches(event.row, event.line)
        )


@dataclass(frozen=True, slots=True)
class LoggedEvent:
    """An event as it is sent, with and without its detail, and the ids of its VM's ancestors."""

    row: Event
    line: frozenset[str]
    full: bytes
    bare: bytes


class LogClient:
    """The queue of one client; `news` is set when there is something in it."""

    def __init__(
        self, wanted: Wanted, after: int | None, news: asyncio.Event, owner: str = ""
    ) -> None:
        """Events behind the number `after` are wanted; None is from now on.

        `owner` tells the caller from others: the past is read for one client of each at a time.
        """
        self.wanted, self.after, self.news, self.owner = wanted, after, news, owner
        # Everything up to this number is in the queue or was sent.
        self.position = 0
        self.is_over = False
        self._chunks: list[bytes] = []
        self._bytes = 0

    def put(self, chunk: bytes) -> bool:
        """Queue events; return False if too much is queued already."""
        self._bytes += len(chunk)
        if self._bytes > MAX_QUEUED_BYTES:
            self.is_over = True
        else:
            self._chunks.append(chunk)
        self.news.set()
        return not self.is_over

    @property
    def has_queued(self) -> bool:
        """Return whether events wait in the queue."""
        return bool(self._chunks)

    def take(self) -> bytes:
        """Return all queued events."""
        chunks, self._chunks, self._bytes = self._chunks, [], 0
        return b"".join(chunks)


class FirstEvent(LogClient):
    """A client that is told that there is an event, once, and does not get it."""

    def put(self, _chunk: bytes) -> bool:
        self.news.set()
        return False


class LogReader:
    """Reads new events for all clients, as long as there are any."""

    def __init__(self) -> None:
        # A client that has missed much must not delay the others.
        self._live, self._past = QueryThread("reef-event-log"), QueryThread("reef-event-past")
        self._groups: dict[Wanted, set[LogClient]] = {}
        self._count = 0
        self._news = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._starting = asyncio.Lock()
        # By owner; kept by those who hold it or wait for it.
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        # All events behind `_recent_from` up to `_position` are in `_recent`.
        self._recent: deque[LoggedEvent] = deque()
        self._recent_from = self._position = 0

    def close(self) -> None:
        """Stop reading."""
        if self._task:
            self._task.cancel()
        self._live.close()
        self._past.close()

    def wake(self) -> None:
        """Read soon: something was recorded."""
        self._news.set()

    async def begin(self, client: LogClient) -> int:
        """Return the number behind which the client gets events.

        The caller calls `leave` at the end, also after an error.
        """
        self._count += 1
        await self._start()
        # A higher number than there is comes from another database.
        last = self._position
        client.position = last if client.after is None else min(client.after, last)
        return client.position

    async def join(self, client: LogClient) -> AsyncIterator[bytes]:
        """Yield what the client has missed, then add it; from then on, its queue is filled."""
        after = client.position
        while after < self._recent_from:
            query = partial(_past_page, client.wanted, after, self._recent_from)
            # Clients of other callers get their turn between two pages.
            async with self._turn_of(client.owner):
                after, page = await self._past.read(query)
            yield page
        # From here on without waiting, so that no event comes in between.
        missed = client.wanted.chunk(event for event in self._recent if event.row.pk > after)
        client.position = self._position
        self._groups.setdefault(client.wanted, set()).add(client)
        yield missed

    def leave(self, client: LogClient) -> None:
        """Remove a client, whether or not it has been added."""
        self._count -= 1
        clients = self._groups.get(client.wanted, set())
        clients.discard(client)
        if not clients:
            self._groups.pop(client.wanted, None)

    @contextlib.asynccontextmanager
    async def first_event(self, wanted: Wanted, news: asyncio.Event) -> AsyncIterator[None]:
        """Set `news` at the first event from now on that is wanted, for the length of the block."""
        client = FirstEvent(wanted, None, news)
        try:
            await self.begin(client)
            # Without a past, this only adds it.
            async for _ in self.join(client):
                pass
            yield
        finally:
            self.leave(client)

    def _turn_of(self, owner: str) -> asyncio.Lock:
        turn = self._turns.get(owner)
        if turn is None:
            turn = self._turns[owner] = asyncio.Lock()
        return turn

    async def _start(self) -> None:
        async with self._starting:
            if self._task is None or self._task.done():
                self._position, recent = await self._live.read(_newest)
                self._recent = deque(recent)
                is_whole = len(recent) < MAX_RECENT // 2
                self._recent_from = 0 if is_whole else recent[0].row.pk - 1
                self._task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        """Read new events whenever there are some, until the last client has left."""
        pause = POLL_SECONDS
        while self._count:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._news.wait(), pause)
            longer = COLLECT_SECONDS + COLLECT_SECONDS_A_CLIENT * self._count
            await asyncio.sleep(min(longer, MAX_COLLECT_SECONDS))
            self._news.clear()
            try:
                position, events, is_behind = await self._live.read(
                    partial(_new_events, self._position)
                )
            except Exception:
                # The loop must survive any error: all clients depend on it.
                logger.exception("the event log cannot be read; trying again")
                continue
            pause = POLL_UNCERTAIN_SECONDS if is_behind else POLL_SECONDS
            if position > self._position:
                self._distribute(position, events)

    def _distribute(self, position: int, events: Sequence[LoggedEvent]) -> None:
        self._position = position
        self._recent.extend(events)
        while len(self._recent) > MAX_RECENT:
            self._recent_from = self._recent.popleft().row.pk
        for wanted, clients in self._groups.items():
            # Clients that want the same share the bytes.
            chunk = wanted.chunk(events)
            for client in list(clients):
                client.position = position
                if chunk and not client.put(chunk):
                    clients.discard(client)


def wanted_of(facts: dict[str, Any]) -> Wanted:
    """Return what a client wants and may read, by Django's response to its request."""
    return Wanted(Sight.of_json(facts["sight"]), EventFilter.of_json(facts["filter"]))


# -- queries: run in threads ---------------------------------------------------------------------


def _newest() -> tuple[int, list[LoggedEvent]]:
    """Return the number up to which events are certain, and the newest of them, oldest first."""
    up_to = reading.last_certain_id()
    rows = reading.between(0, up_to).order_by("-pk")[: MAX_RECENT // 2]
    return up_to, _logged(list(rows)[::-1])


def _new_events(after: int) -> tuple[int, list[LoggedEvent], bool]:
    """Return the number up to which was read, the events, and whether there are more to come."""
    up_to = reading.last_certain_id()
    rows = list(reading.between(after, up_to)[:BATCH_SIZE])
    if len(rows) == BATCH_SIZE:
        up_to = rows[-1].pk
    return up_to, _logged(rows), up_to < reading.last_id()


def _past_page(wanted: Wanted, after: int, up_to: int) -> tuple[int, bytes]:
    """Return the number up to which was read, and those events that the client gets."""
    # The database leaves out what is not for the client: it may be nearly the whole log.
    found = wanted.sight.rows(wanted.filter.rows(reading.between(after, up_to)))
    rows = list(found[:BATCH_SIZE])
    if len(rows) == BATCH_SIZE:
        up_to = rows[-1].pk
    return up_to, wanted.chunk(_logged(rows))


def _logged(rows: Sequence[Event]) -> list[LoggedEvent]:
    lines = lines_of(row.vm_id for row in rows)
    return [_logged_event(row, lines.get(row.vm_id, frozenset())) for row in rows]


def _logged_event(row: Event, line: frozenset[str]) -> LoggedEvent:
    full = _event(row, with_detail=True)
    bare = _event(row, with_detail=False) if row.topic in DETAILS else full
    return LoggedEvent(row, line, full, bare)


def _event(row: Event, *, with_detail: bool) -> bytes:
    data = dumps(event_json(row, with_detail=with_detail))
    return b"id: %d\nevent: log\ndata: %s\n\n" % (row.pk, data)
