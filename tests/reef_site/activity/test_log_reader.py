"""The edge's reader of the event log: no gap, no repeats, one query for all clients."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest

from reef_site.activity.filters import EventFilter
from reef_site.activity.visibility import Sight
from reef_site.common.eventlog import reading, recording
from reef_site.common.eventlog.models import Event
from reef_site.edge import event_log
from reef_site.edge.event_log import LogClient, LogReader, Wanted
from tests.fleets import grow

pytestmark = pytest.mark.django_db(transaction=True)
ALL = Wanted(Sight(is_unlimited=True), EventFilter())


def record(*subjects: str, kind: str = "vm.late", **fields: Any) -> None:
    for subject in subjects:
        recording.record(kind, subject, actor="tests", detail={"reason": "x"}, **fields)


def numbers(chunk: bytes) -> list[int]:
    return [int(line[4:]) for line in chunk.split(b"\n") if line.startswith(b"id: ")]


class Reader:
    """A client that reads until it has seen a number."""

    def __init__(self, reader: LogReader, wanted: Wanted = ALL, after: int | None = None) -> None:
        self.client = LogClient(wanted, after, asyncio.Event())
        self.reader = reader
        self.received = b""

    async def join(self) -> None:
        await self.reader.begin(self.client)
        async for chunk in self.reader.join(self.client):
            self.received += chunk

    async def read_until(self, number: int) -> None:
        async with asyncio.timeout(20):
            while self.client.position < number:
                self.client.news.clear()
                await asyncio.sleep(0.01)
            self.received += self.client.take()

    @property
    def numbers(self) -> list[int]:
        return numbers(self.received)


def play(work: Callable[[LogReader], Awaitable[None]]) -> None:
    async def run() -> None:
        reader = LogReader()
        try:
            await work(reader)
        finally:
            reader.close()

    asyncio.run(run())


async def write(*subjects: str) -> int:
    """Record events in a thread, and return the number of the last one."""

    def run() -> int:
        record(*subjects)
        return reading.last_certain_id()

    return await asyncio.to_thread(run)


def all_numbers() -> list[int]:
    return list(Event.objects.order_by("pk").values_list("pk", flat=True))


@pytest.mark.parametrize("kept", [1, 4, 1000])
def test_client_continues_behind_the_number_it_has_seen(
    monkeypatch: pytest.MonkeyPatch, kept: int
) -> None:
    """From memory as far as that reaches, else from the table."""
    monkeypatch.setattr(event_log, "MAX_RECENT", 2 * kept)
    monkeypatch.setattr(event_log, "BATCH_SIZE", 3)
    record(*(f"vm-{number}" for number in range(20)))
    seen = all_numbers()[6]

    async def work(reader: LogReader) -> None:
        client = Reader(reader, after=seen)
        await client.join()
        last = await write("a", "b")
        reader.wake()
        await client.read_until(last)
        assert client.numbers == await asyncio.to_thread(all_numbers_after, seen)
        reader.leave(client.client)

    play(work)


def all_numbers_after(seen: int) -> list[int]:
    return [number for number in all_numbers() if number > seen]


def test_client_without_a_number_starts_now() -> None:
    record("before")

    async def work(reader: LogReader) -> None:
        client = Reader(reader)
        await client.join()
        last = await write("after")
        reader.wake()
        await client.read_until(last)
        assert client.numbers == [last]

    play(work)


def test_number_of_another_database_starts_now() -> None:
    async def work(reader: LogReader) -> None:
        client = Reader(reader, after=10**9)
        await client.join()
        last = await write("after")
        reader.wake()
        await client.read_until(last)
        assert client.numbers == [last]

    play(work)


def test_many_clients_cost_one_query_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    queries: list[int] = []
    read = event_log._new_events

    def counting(after: int) -> Any:
        queries.append(after)
        return read(after)

    monkeypatch.setattr(event_log, "_new_events", counting)
    monkeypatch.setattr(event_log, "POLL_SECONDS", 60.0)

    async def work(reader: LogReader) -> None:
        clients = [Reader(reader) for _ in range(50)]
        for client in clients:
            await client.join()
        last = await write("vm")
        reader.wake()
        for client in clients:
            await client.read_until(last)
        assert {client.received for client in clients} == {clients[0].received}
        assert len(queries) == 1

    play(work)


def test_lost_notification_only_delays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_log, "POLL_SECONDS", 0.05)

    async def work(reader: LogReader) -> None:
        client = Reader(reader)
        await client.join()
        await client.read_until(await write("vm"))
        assert len(client.numbers) == 1

    play(work)


def test_slow_client_is_disconnected_and_misses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_log, "MAX_QUEUED_BYTES", 1000)

    async def work(reader: LogReader) -> None:
        slow = Reader(reader)
        await slow.join()
        for _ in range(10):
            last = await write("vm", "other")
            reader.wake()
            async with asyncio.timeout(20):
                while reader._position < last:
                    await asyncio.sleep(0.01)
        assert slow.client.is_over
        first = numbers(slow.client.take())
        reader.leave(slow.client)
        again = Reader(reader, after=first[-1])
        await again.join()
        assert first + again.numbers == await asyncio.to_thread(all_numbers)

    play(work)


def test_reader_stops_without_clients(monkeypatch: pytest.MonkeyPatch) -> None:
    async def work(reader: LogReader) -> None:
        client = Reader(reader)
        await client.join()
        task = reader._task
        assert task
        reader.leave(client.client)
        reader.wake()
        await asyncio.wait_for(task, 10)
        # The next client starts it again, behind what was recorded meanwhile.
        await write("meanwhile")
        client = Reader(reader, after=client.client.position)
        await client.join()
        assert len(client.numbers) == 1

    play(work)


def test_error_of_the_database_ends_no_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    read, errors = event_log._new_events, [RuntimeError("tests")]

    def failing(after: int) -> Any:
        if errors:
            raise errors.pop()
        return read(after)

    monkeypatch.setattr(event_log, "_new_events", failing)
    monkeypatch.setattr(event_log, "POLL_SECONDS", 0.05)

    async def work(reader: LogReader) -> None:
        client = Reader(reader)
        await client.join()
        await client.read_until(await write("vm"))
        assert len(client.numbers) == 1

    play(work)


def test_filters_and_permissions() -> None:
    grow()
    node = Sight(
        everywhere=frozenset({"vm", "lieutenant"}),
        below=frozenset({"boot"}),
        bare=frozenset({"lieutenant"}),
        root="left",
    )

    async def work(reader: LogReader) -> None:
        clients = {
            "all": Reader(reader),
            "boot": Reader(reader, Wanted(ALL.sight, EventFilter(kinds=("boot",)))),
            "subtree": Reader(reader, Wanted(ALL.sight, EventFilter(subtree="left"))),
            "node": Reader(reader, Wanted(node, EventFilter())),
        }
        for client in clients.values():
            await client.join()

        def run() -> int:
            record("leaf", kind="boot.done")
            record("right", kind="boot.done")
            record("right", "leaf", kind="lieutenant.error")
            record("fleet", kind="snapshot.taken", vm_id="")
            return reading.last_certain_id()

        last = await asyncio.to_thread(run)
        reader.wake()
        for client in clients.values():
            await client.read_until(last)
        # Relative to the last number: leaf boots -4, right boots -3, errors of right -2, leaf -1.
        found = {
            name: [number - last for number in client.numbers if number > last - 5]
            for name, client in clients.items()
        }
        assert found == {
            "all": [-4, -3, -2, -1, 0],
            "boot": [-4, -3],
            "subtree": [-4, -1],
            "node": [-4, -2, -1],
        }
        # The reason of the sibling's error is not for the node.
        assert clients["node"].received.count(b'"detail":null') == 1
        assert b'"detail":null' not in clients["all"].received

    play(work)


def test_past_is_narrowed_by_the_database(monkeypatch: pytest.MonkeyPatch) -> None:
    grow()
    monkeypatch.setattr(event_log, "BATCH_SIZE", 5)
    before = reading.last_certain_id()
    for _ in range(30):
        record("right", kind="boot.done")
        record("fleet", kind="snapshot.taken", vm_id="")
    record("leaf", kind="boot.done")
    last = reading.last_certain_id()
    read: list[int] = []
    logged = event_log._logged

    def count(rows: Sequence[Event]) -> list[event_log.LoggedEvent]:
        read.append(len(rows))
        return logged(rows)

    monkeypatch.setattr(event_log, "_logged", count)
    node = Sight(below=frozenset({"boot"}), root="left")

    for wanted in (Wanted(node, EventFilter()), Wanted(ALL.sight, EventFilter(subtree="left"))):
        up_to, page = event_log._past_page(wanted, before, last)
        assert (up_to, numbers(page)) == (last, [last])
    assert read == [1, 1]
    record("x", vm_id="without-node")
    alone = Wanted(ALL.sight, EventFilter(subtree="without-node"))
    assert numbers(event_log._past_page(alone, last, last + 1)[1]) == [last + 1]


def test_one_caller_reads_one_page_of_the_past_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_log, "BATCH_SIZE", 2)
    monkeypatch.setattr(event_log, "MAX_RECENT", 2)
    record(*(f"s{number}" for number in range(9)))
    order: list[str] = []

    async def work(reader: LogReader) -> None:
        async def read_all(owner: str) -> None:
            nonlocal order
            client = LogClient(ALL, 0, asyncio.Event(), owner)
            await reader.begin(client)
            async for _ in reader.join(client):
                order += [owner]

        busy = [asyncio.create_task(read_all("busy")) for _ in range(8)]
        await asyncio.gather(*busy, asyncio.create_task(read_all("other")))
        # Eight streams of one caller have not delayed the other's pages by more than one each.
        assert order.index("other") <= 2
        assert order.count("other") == order.count("busy") / 8
        last = max(place for place, owner in enumerate(order) if owner == "other")
        assert last < len(order) / 2

    play(work)


@pytest.mark.rotated
def test_wait_is_told_of_the_first_wanted_event_only() -> None:
    record("mine")
    wanted = Wanted(Sight(is_unlimited=True), EventFilter(subject="mine"))

    async def work(reader: LogReader) -> None:
        news, all_ones = asyncio.Event(), Reader(reader)
        await all_ones.join()
        async with reader.first_event(wanted, news):
            # That it read the events of others shows that it has passed them by.
            await all_ones.read_until(await write("others"))
            assert not news.is_set()
            await write("mine")
            async with asyncio.timeout(20):
                await news.wait()
            news.clear()
            await all_ones.read_until(await write("mine"))
            assert not news.is_set()
        reader.leave(all_ones.client)

    play(work)
