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
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from datetime import datetime, timedelta
from functools import partial
from typing import Any, TypeVar

import redis.asyncio
from django.conf import settings
from django.db.models import Q
from django.utils import timezone
from redis.exceptions import RedisError

from lieutenants.conditions import Conditions
from lieutenants.messages import waits
from lieutenants.messages.waits import Wait
from lieutenants.models import Chunk, Entry, Lieutenant
from lieutenants.states import Status
from lieutenants.transcript.serializers import entries_json
from reef_site.common import events
from reef_site.common.events import Topic
from reef_site.edge import event_log, fleet_stream
from reef_site.edge.event_log import LogClient, LogReader
from reef_site.edge.fleet_stream import PING_SECONDS, Listener, sse_event
from reef_site.edge.revocation import Guard, QueryThread

logger = logging.getLogger(__name__)

Answer = TypeVar("Answer")

# Rows are polled at this interval even without events, since Redis may be down.
POLL_SECONDS = 2.0
# Limits on the queue of a slow client: events, and their bytes.
MAX_QUEUED = 500
MAX_QUEUED_BYTES = 8 << 20
BATCH_SIZE = 1000


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
        yield sse_event("reload", {})


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


class Streams:
    """All streams of this edge process."""

    def __init__(self) -> None:
        # Waits must not delay transcripts.
        self._reader, self._waits = QueryThread("reef-streams"), QueryThread("reef-waits")
        self._channels: dict[str, Channel] = {}
        self._listeners: set[Listener] = set()
        # Held responses that wait for a lieutenant or a question, by its id.
        self._waiters: dict[str, set[asyncio.Event]] = {}
        self._listening: asyncio.Task[None] | None = None
        self._catching_up: asyncio.Task[None] | None = None
        self.log = LogReader()
        self.guard = Guard()

    async def close(self) -> None:
        """End the subscription and the reading threads."""
        tasks = [channel.task for channel in self._channels.values()] + [
            self._listening,
            self._catching_up,
        ]
        for task in tasks:
            if task:
                task.cancel()
        self.guard.close()
        self.log.close()
        self._reader.close()
        self._waits.close()

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

    async def fleet(
        self, facts: dict[str, Any], last_event: int | None, owner: str = ""
    ) -> AsyncGenerator[bytes, None]:
        """Yield notices of what changed, events of the log, or both.

        `facts` is Django's response to the request, `last_event` the client's `Last-Event-ID`,
        and `owner` tells the caller from others.
        """
        self._listen()
        listener, client = Listener(), None
        if facts["log"]:
            after = facts["after"] if last_event is None else last_event
            client = LogClient(event_log.wanted_of(facts), after, listener.news, owner)
        if facts["notices"]:
            self._listeners.add(listener)
        try:
            async with aclosing(fleet_stream.chunks(listener, client, self.log)) as chunks:
                async for chunk in chunks:
                    yield chunk
        finally:
            self._listeners.discard(listener)

    @staticmethod
    def wait_of(header: str) -> Wait | Conditions:
        """Parse the header of a response that is to be held."""
        return waits.parse(header)

    async def state_of(self, wait: Wait | Conditions) -> dict[str, Any]:
        """Return the state of what was waited for."""
        return await self._waits.read(wait.state)

    async def until_over(self, wait: Wait | Conditions, most_seconds: float = float("inf")) -> None:
        """Wait until the awaited condition holds, or its time or `most_seconds` are over."""
        self._listen()
        end = time.monotonic() + min(wait.seconds, most_seconds)
        news = asyncio.Event()
        subjects = await self._waits.read(lambda: list(wait.subjects))
        for lieutenant_id in subjects:
            self._waiters.setdefault(lieutenant_id, set()).add(news)
        try:
            async with self._first_event(wait, news):
                while time.monotonic() < end:
                    news.clear()
                    if await self._waits.read(wait.is_over):
                        break
                    left = max(0.01, min(wait.poll_seconds, end - time.monotonic()))
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(news.wait(), left)
        finally:
            for lieutenant_id in set(subjects):
                self._waiters[lieutenant_id].discard(news)
                if not self._waiters[lieutenant_id]:
                    del self._waiters[lieutenant_id]

    def _first_event(
        self, wait: Wait | Conditions, news: asyncio.Event
    ) -> contextlib.AbstractAsyncContextManager[None]:
        """Set `news` at the first event of the log that the wait is for, if it is for one."""
        if wait.event is None:
            return contextlib.nullcontext()
        return self.log.first_event(event_log.wanted_of(wait.event.as_json()), news)

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
                channel.tell(sse_event("ping", {}))
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
        self.log.wake()
        for channel in self._channels.values():
            channel.news.set()

    def _on_event(self, data: bytes) -> None:
        try:
            news: dict[str, Any] = dict(json.loads(data))
        except (TypeError, ValueError):
            logger.warning("news that are no JSON object: %r", data[:200])
            return
        topic = str(news.get("topic"))
        if topic == Topic.TRANSCRIPTS:
            for lieutenant_id in news.get("revs", {}):
                self._wake(lieutenant_id)
        elif topic == Topic.LIEUTENANTS:
            self._on_lieutenant(str(news.get("id")))
        elif topic == Topic.RECORDED:
            self.log.wake()
        elif topic == Topic.MISSED:
            self._on_missed(float(news.get("seconds", 0)))
        else:
            self._on_ids(topic, news)

    def _on_ids(self, topic: str, news: dict[str, Any]) -> None:
        """Tell the listeners which provisionings, questions or nodes changed."""
        ids = list(map(str, news.get("ids", [])))
        if topic == Topic.QUESTIONS:
            for question_id in ids:
                self._end_waits(question_id)
        for listener in self._listeners:
            if topic == Topic.PROVISIONINGS:
                listener.add_provisionings(ids)
            elif topic == Topic.QUESTIONS:
                listener.add_questions(ids)
            elif topic == Topic.NODES:
                listener.add_nodes(None if news.get("all") else ids)

    def _on_missed(self, seconds: float) -> None:
        """Check everything again, because Redis was slow and dropped the events of `seconds`."""

        async def catch_up() -> None:
            try:
                await self._catch_up(timezone.now() - timedelta(seconds=seconds))
            except Exception:
                logger.exception("what changed meanwhile cannot be read")

        self._catching_up = asyncio.create_task(catch_up())

    def _end_waits(self, subject: str) -> None:
        """Have the held responses that wait for this check whether they are over."""
        for waiting in self._waiters.get(subject, ()):
            waiting.set()

    def _on_lieutenant(self, lieutenant_id: str) -> None:
        self._wake(lieutenant_id)
        self._end_waits(lieutenant_id)
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
        return rev, sse_event("reload", {}, rev), False
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
    found = [(row["rev"], sse_event("entry", row, row["rev"])) for row in entries_json(entries)]
    chunks = Chunk.objects.filter(**new).values_list("rev", "entry_id", "text")
    for number, entry_id, text in chunks:
        found.append((number, sse_event("delta", {"entry": entry_id, "text": text}, number)))
    found.sort(key=lambda each: each[0])
    return rev, [event for _, event in found], more


def _facts(lieutenant: Lieutenant) -> bytes:
    pending = list(lieutenant.messages.pending().values_list("state", flat=True))
    return sse_event(
        "status",
        {
            "status": lieutenant.status,
            "waitingFor": lieutenant.waiting_for,
            "trouble": lieutenant.trouble,
            "error": lieutenant.error,
            "stalled": lieutenant.stalled,
            "tasks": lieutenant.task_count,
            "pending": pending,
            "questions": lieutenant.questions.open().count(),
        },
    )


def _rev_of(chunk: bytes) -> int:
    """Return the number of the event's change; events without one are always new."""
    if not chunk.startswith(b"id: "):
        return 1 << 62
    return int(chunk[4 : chunk.index(b"\n")])
