"""Event streams of the edge: one Redis subscription a process, fanned out to all clients.

An event says what changed; the new data is read from the database, once for all clients that follow
the same transcript. So a client that reconnects with the number of the last change it saw continues
without a gap, and without Redis events are only delayed.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable
from datetime import datetime, timedelta
from functools import partial
from typing import Any, TypeVar

import redis.asyncio
from django.conf import settings
from django.db.models import Q
from django.utils import timezone
from redis.exceptions import RedisError

from lieutenants.messages import waits
from lieutenants.messages.waits import Wait
from lieutenants.models import Chunk, Entry, Lieutenant
from lieutenants.states import Status
from lieutenants.transcript.serializers import entries_json
from reef_site.common import events
from reef_site.common.events import Topic
from reef_site.common.json_format import dumps
from reef_site.edge.revocation import Guard, QueryThread

logger = logging.getLogger(__name__)

Answer = TypeVar("Answer")

# Interval of pings: clients take silence for a failure.
PING_SECONDS = 15.0
LISTING_SECONDS = 0.25
# Rows are polled at this interval even without events, since Redis may be down.
POLL_SECONDS = 2.0
# Limits on the queue of a slow client: events, and their bytes.
MAX_QUEUED = 500
MAX_QUEUED_BYTES = 8 << 20
BATCH_SIZE = 1000
# Beyond this many VMs, an event says only that there are many.
MAX_NODES = 200


class Client:
    """Queue of one client of a transcript."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._bytes = 0

    def take(self, chunk: bytes) -> bool:
        """Queue an event; return False if too much is queued already."""
        if self._queue.qsize() >= MAX_QUEUED or self._bytes + len(chunk) > MAX_QUEUED_BYTES:
            return False
        self._bytes += len(chunk)
        self._queue.put_nowait(chunk)
        return True

    def end(self) -> None:
        """End the stream; the client is told to reload."""
        self._queue.put_nowait(None)

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yield queued events as they come."""
        while (chunk := await self._queue.get()) is not None:
            self._bytes -= len(chunk)
            yield chunk
        yield _event("reload", {})


class Channel:
    """A transcript with its clients, and the number of the last change that was read."""

    def __init__(self, lieutenant_id: str, rev: int) -> None:
        self.lieutenant_id = lieutenant_id
        self.rev = rev
        self.news = asyncio.Event()
        self.clients: set[Client] = set()
        self.task: asyncio.Task[None] | None = None

    def tell(self, chunk: bytes) -> None:
        """Queue an event for every client; a client that cannot keep up is told to reload."""
        for client in list(self.clients):
            if not client.take(chunk):
                self.clients.discard(client)
                client.end()

    def end(self) -> None:
        """End the streams of all clients."""
        for client in self.clients:
            client.end()
        self.clients.clear()


class Listener:
    """A client of the listing, with the ids that changed since its last event."""

    def __init__(self) -> None:
        self.changed: set[str] = set()
        # VMs, in the tree or in the registry; None if there are too many to name.
        self.nodes: set[str] | None = set()
        self.provisionings: set[str] = set()
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

    def take(self) -> bytes:
        """Return the events for all collected ids, and clear them."""
        self.news.clear()
        changed, self.changed = self.changed, set()
        nodes, self.nodes = self.nodes, set()
        provisionings, self.provisionings = self.provisionings, set()
        events = _event("lieutenants", {"ids": sorted(changed)}) if changed else b""
        events += _event("provisionings", {"ids": sorted(provisionings)}) if provisionings else b""
        if nodes is None:
            return events + _event("nodes", {"many": True})
        return events + (_event("nodes", {"ids": sorted(nodes)}) if nodes else b"")


class Streams:
    """All streams of this edge process."""

    def __init__(self) -> None:
        self._reader = QueryThread("reef-streams")
        self._channels: dict[str, Channel] = {}
        self._listeners: set[Listener] = set()
        # Held responses that wait for a lieutenant, by its id.
        self._waiters: dict[str, set[asyncio.Event]] = {}
        self._listening: asyncio.Task[None] | None = None
        self._catching_up: asyncio.Task[None] | None = None
        self.guard = Guard()

    async def close(self) -> None:
        """End the subscription and the reading thread."""
        tasks = [channel.task for channel in self._channels.values()] + [
            self._listening,
            self._catching_up,
        ]
        for task in tasks:
            if task:
                task.cancel()
        self.guard.close()
        self._reader.close()

    async def transcript(
        self, lieutenant_id: str, after: int | None
    ) -> AsyncGenerator[bytes, None]:
        """Yield the events of one transcript from the change after `after` on."""
        self._listen()
        client = Client()
        seen, first, more = await self._query(lambda: _first_events(lieutenant_id, after))
        yield first or b": welcome\n\n"
        while more:
            seen, page, more = await self._query(partial(_events_after, lieutenant_id, seen))
            yield page
        channel = self._channel(lieutenant_id, seen)
        channel.clients.add(client)
        try:
            # Read again: changes may have come between the read above and joining the channel.
            seen, missed = await self._query(lambda: _events_and_facts(lieutenant_id, seen))
            yield missed
            async for chunk in client.chunks():
                if _rev_of(chunk) > seen:
                    yield chunk
        finally:
            channel.clients.discard(client)
            self._leave(channel)

    async def listing(self) -> AsyncGenerator[bytes, None]:
        """Yield which lieutenants and VMs changed, at most four times a second."""
        self._listen()
        listener = Listener()
        self._listeners.add(listener)
        try:
            yield _event("hello", {})
            pinged = time.monotonic()
            while True:
                left = pinged + PING_SECONDS - time.monotonic()
                if left <= 0:
                    yield _event("ping", {})
                    pinged = time.monotonic()
                    continue
                try:
                    await asyncio.wait_for(listener.news.wait(), left)
                except TimeoutError:
                    continue
                await asyncio.sleep(LISTING_SECONDS)
                yield listener.take()
        finally:
            self._listeners.discard(listener)

    @staticmethod
    def wait_of(header: str) -> Wait:
        """Parse the header of a response that is to be held."""
        return waits.parse(header)

    async def state_of(self, wait: Wait) -> dict[str, Any]:
        """Return the state of the lieutenant after a wait."""
        return await self._query(wait.state)

    async def until_over(self, wait: Wait) -> None:
        """Wait until the awaited condition holds, or its time is over."""
        self._listen()
        end, lieutenant_id = time.monotonic() + wait.seconds, wait.lieutenant
        news = asyncio.Event()
        self._waiters.setdefault(lieutenant_id, set()).add(news)
        try:
            while time.monotonic() < end:
                news.clear()
                if await self._query(wait.is_over):
                    break
                left = max(0.01, min(0.5, end - time.monotonic()))
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(news.wait(), left)
        finally:
            self._waiters[lieutenant_id].discard(news)
            if not self._waiters[lieutenant_id]:
                del self._waiters[lieutenant_id]

    # -- reading and publishing -------------------------------------------------------------

    async def _query(self, query: Callable[[], Answer]) -> Answer:
        """Run a query in the reading thread."""
        return await self._reader.read(query)

    def _channel(self, lieutenant_id: str, rev: int) -> Channel:
        channel = self._channels.get(lieutenant_id)
        if channel is None:
            channel = self._channels[lieutenant_id] = Channel(lieutenant_id, rev)
            channel.task = asyncio.create_task(self._follow(channel))
        return channel

    def _leave(self, channel: Channel) -> None:
        if not channel.clients and self._channels.get(channel.lieutenant_id) is channel:
            del self._channels[channel.lieutenant_id]
            if channel.task:
                channel.task.cancel()

    async def _follow(self, channel: Channel) -> None:
        """Read new changes whenever there is an event, and send them to all clients."""
        facts = b""
        pinged = time.monotonic()
        while True:
            try:
                rev, events, more, now = await self._query(lambda: _new_events(channel))
                if more:
                    channel.news.set()
                channel.rev = rev
                for event in events:
                    channel.tell(event)
                if now != facts and facts:
                    channel.tell(now)
                facts = now
            except Lieutenant.DoesNotExist:
                logger.info("%s is gone, and so is its transcript", channel.lieutenant_id)
                self._channels.pop(channel.lieutenant_id, None)
                channel.end()
                return
            except Exception:
                # The loop must survive any error: the channel's clients depend on it.
                logger.exception("a transcript cannot be read; trying again")
            if time.monotonic() - pinged > PING_SECONDS:
                pinged = time.monotonic()
                channel.tell(_event("ping", {}))
            try:
                await asyncio.wait_for(channel.news.wait(), POLL_SECONDS)
            except TimeoutError:
                continue
            channel.news.clear()

    def _listen(self) -> None:
        if self._listening is None or self._listening.done():
            self._listening = asyncio.create_task(self._subscribe())

    async def _subscribe(self) -> None:
        """Run the one subscription of this process; without Redis, retry each second."""
        lost_at: datetime | None = None
        while True:
            client = redis.asyncio.Redis.from_url(settings.REDIS_URL, socket_connect_timeout=1)
            try:
                async with client.pubsub(ignore_subscribe_messages=True) as subscription:
                    await subscription.subscribe(events.CHANNEL)
                    if lost_at:
                        await self._catch_up(lost_at)
                        lost_at = None
                    while True:
                        news = await subscription.get_message(timeout=30.0)
                        if news:
                            self._on_event(news["data"])
            except (RedisError, OSError) as error:
                lost_at = lost_at or timezone.now()
                logger.info("no news from Redis (%s)", error)
            except Exception:
                lost_at = lost_at or timezone.now()
                logger.exception("news cannot be taken; trying again")
            finally:
                await client.aclose()
            await asyncio.sleep(1.0)

    async def _catch_up(self, since: datetime) -> None:
        """Check everything again, because events were lost while Redis was away."""
        changed = await self._query(lambda: _active_or_ended(since))
        for listener in self._listeners:
            listener.tell(changed)
            listener.add_nodes(None)
        for channel in self._channels.values():
            channel.news.set()

    def _on_event(self, data: bytes) -> None:
        try:
            news: dict[str, Any] = dict(json.loads(data))
        except (TypeError, ValueError):
            logger.warning("news that are no JSON object: %r", data[:200])
            return
        topic = news.get("topic")
        if topic == Topic.TRANSCRIPTS:
            for lieutenant_id in news.get("revs", {}):
                self._wake(lieutenant_id)
        elif topic == Topic.LIEUTENANTS:
            self._on_lieutenant(str(news.get("id")))
        elif topic == Topic.PROVISIONINGS:
            for listener in self._listeners:
                listener.add_provisionings(news.get("ids", []))
        elif topic == Topic.MISSED:
            self._on_missed(float(news.get("seconds", 0)))
        elif topic == Topic.NODES:
            vm_ids = None if news.get("all") else news.get("ids", [])
            for listener in self._listeners:
                listener.add_nodes(vm_ids)

    def _on_missed(self, seconds: float) -> None:
        """Check everything again, because Redis was slow and dropped the events of `seconds`."""

        async def catch_up() -> None:
            try:
                await self._catch_up(timezone.now() - timedelta(seconds=seconds))
            except Exception:
                logger.exception("what changed meanwhile cannot be read")

        self._catching_up = asyncio.create_task(catch_up())

    def _on_lieutenant(self, lieutenant_id: str) -> None:
        self._wake(lieutenant_id)
        for waiting in self._waiters.get(lieutenant_id, ()):
            waiting.set()
        for listener in self._listeners:
            listener.tell([lieutenant_id])

    def _wake(self, lieutenant_id: str) -> None:
        if channel := self._channels.get(lieutenant_id):
            channel.news.set()


# -- queries: run in the reading thread ----------------------------------------------------------


def _first_events(lieutenant_id: str, after: int | None) -> tuple[int, bytes, bool]:
    """Return the changes that a new client has missed; without a number it has missed none."""
    if after is None:
        return _rev(lieutenant_id), b"", False
    if (rev := _rev(lieutenant_id)) < after:
        # The client has seen higher numbers, for example those of another database.
        return rev, _event("reload", {}, rev), False
    return _events_after(lieutenant_id, after)


def _events_and_facts(lieutenant_id: str, after: int) -> tuple[int, bytes]:
    """Return the events after `after`, and the lieutenant's status, which has no number."""
    rev, events, more = _events_after(lieutenant_id, after)
    while more:
        rev, further, more = _events_after(lieutenant_id, rev)
        events += further
    return rev, events + _facts(Lieutenant.objects.get(pk=lieutenant_id))


def _active_or_ended(since: datetime) -> list[str]:
    """Return the ids of active lieutenants, and of those destroyed since then."""
    found = Lieutenant.objects.filter(~Q(status=Status.DESTROYED) | Q(status_since__gte=since))
    return list(found.values_list("pk", flat=True))


def _events_after(lieutenant_id: str, after: int) -> tuple[int, bytes, bool]:
    rev, events, more = _changes(lieutenant_id, after)
    return rev, b"".join(events), more


def _new_events(channel: Channel) -> tuple[int, list[bytes], bool, bytes]:
    rev, events, more = _changes(channel.lieutenant_id, channel.rev)
    return rev, events, more, _facts(Lieutenant.objects.get(pk=channel.lieutenant_id))


def _rev(lieutenant_id: str) -> int:
    return Lieutenant.objects.values_list("rev", flat=True).get(pk=lieutenant_id)


def _changes(lieutenant_id: str, after: int) -> tuple[int, list[bytes], bool]:
    """Return the last number read, the events after `after` in order, and whether there are more.

    Each event carries its number as its id. The lieutenant's number is read first: all rows up to
    it were committed with it, and changes during the read have higher numbers and come next time.
    """
    rev = _rev(lieutenant_id)
    if rev <= after:
        return after, [], False
    new: dict[str, Any] = {"lieutenant": lieutenant_id, "rev__gt": after, "rev__lte": rev}
    entries = list(Entry.objects.filter(**new).order_by("rev")[: BATCH_SIZE + 1])
    more = len(entries) > BATCH_SIZE
    if more:
        entries = entries[:BATCH_SIZE]
        rev = new["rev__lte"] = entries[-1].rev
    # The text of an unfinished block is in chunks, all newer than the block.
    found = [(row["rev"], _event("entry", row, row["rev"])) for row in entries_json(entries)]
    chunks = Chunk.objects.filter(**new).values_list("rev", "entry_id", "text")
    for number, entry_id, text in chunks:
        found.append((number, _event("delta", {"entry": entry_id, "text": text}, number)))
    found.sort(key=lambda each: each[0])
    return rev, [event for _, event in found], more


def _facts(lieutenant: Lieutenant) -> bytes:
    pending = list(lieutenant.messages.pending().values_list("state", flat=True))
    return _event(
        "status",
        {
            "status": lieutenant.status,
            "waitingFor": lieutenant.waiting_for,
            "trouble": lieutenant.trouble,
            "error": lieutenant.error,
            "stalled": lieutenant.stalled,
            "tasks": lieutenant.task_count,
            "pending": pending,
        },
    )


def _event(kind: str, data: object, rev: int | None = None) -> bytes:
    number = b"" if rev is None else b"id: %d\n" % rev
    return b"%sevent: %s\ndata: %s\n\n" % (number, kind.encode(), dumps(data))


def _rev_of(chunk: bytes) -> int:
    """Return the number of the event's change; events without one are always new."""
    if not chunk.startswith(b"id: "):
        return 1 << 62
    return int(chunk[4 : chunk.index(b"\n")])
