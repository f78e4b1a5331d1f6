"""Event streams through the real edge: complete and in order despite interruptions."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from django.utils import timezone

from lieutenants.models import Chunk, Entry, Lieutenant, Process
from reef_site.client.errors import INTERRUPTED
from reef_site.edge import streams
from reef_site.edge.fleet_stream import Listener
from reef_site.edge.streams import Channel, Client, Streams
from tests.stack import EVENT_STREAM, ROOT, TOKEN, Stack
from tests.waiting import until

LIEUTENANTS = "/lieutenant/lieutenants"
# The stream without the events of the log.
NOTICES = "/events?log=false"
WORDS = 400


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with Stack(tmp_path_factory.mktemp("streams")) as stack:
        yield stack


@dataclass(frozen=True)
class Event:
    kind: str
    rev: int | None
    data: Any


def events_of(lines: Iterator[str]) -> Iterator[Event]:
    """Parse the events of a stream as a browser does."""
    fields: dict[str, str] = {}
    for line in lines:
        if line.startswith(":"):
            continue
        if line:
            name, _, value = line.partition(": ")
            fields[name] = value
        elif fields:
            rev = int(fields["id"]) if "id" in fields else None
            yield Event(fields["event"], rev, json.loads(fields["data"]))
            fields = {}


@dataclass
class Follower:
    """A client that builds the transcript from events, as the page does."""

    stack: Stack
    name: str
    rev: int = 0
    connects: int = 0
    revs: list[int] = field(default_factory=list)
    entries: dict[int, dict[str, Any]] = field(default_factory=dict)
    statuses: list[str] = field(default_factory=list)

    def follow(self, until_event: Any = None, seconds: float = 60.0) -> None:
        """Read one connection until `until_event(event)` is true, or until it ends."""
        headers = {"Last-Event-ID": str(self.rev)} if self.connects else {}
        path = f"{LIEUTENANTS}/{self.name}/stream?after=0"
        self.connects += 1
        with self.stack.client.stream("GET", path, headers=headers, timeout=seconds) as answer:
            assert answer.status_code == 200
            for event in events_of(answer.iter_lines()):
                self.apply(event)
                if until_event and until_event(event):
                    return

    def apply(self, event: Event) -> None:
        if event.rev is not None:
            self.rev = event.rev
            self.revs.append(event.rev)
        if event.kind == "entry":
            self.entries[event.data["id"]] = dict(event.data)
        elif event.kind == "delta":
            self.entries[event.data["entry"]]["text"] += event.data["text"]
        elif event.kind == "status":
            self.statuses.append(event.data["status"])

    def is_whole(self) -> bool:
        """Return whether the client has the whole transcript."""
        received_entries = [self.entries[key] for key in sorted(self.entries)]
        return received_entries == self.stack.transcript(self.name)


def idle(event: Event) -> bool:
    return event.kind == "status" and event.data["status"] == "idle"


def wait_idle(stack: Stack, name: str) -> None:
    until(lambda: stack.get(name)["status"] == "idle", 60)


# -- permissions -------------------------------------------------------------------------------


@pytest.mark.rotated
def test_stream_requires_valid_credentials(stack: Stack) -> None:
    stack.create("heard")
    base = str(stack.client.base_url)
    for path in (f"{LIEUTENANTS}/heard/stream", "/events"):
        refused = httpx.get(base + path, headers=EVENT_STREAM)
        assert refused.status_code == 401
        assert refused.json() == {"error": "Unauthorized — missing Authorization header"}
        assert refused.headers["www-authenticate"] == "Bearer"
        wrong = httpx.get(
            base + path, headers={**EVENT_STREAM, "authorization": "Bearer wrong-token"}
        )
        assert wrong.status_code == 401
        with stack.client.stream("GET", path, headers=EVENT_STREAM) as answer:
            assert answer.status_code == 200
            assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
            assert answer.headers["cache-control"] == "no-store"


def test_operator_reads_stream_with_session(stack: Stack) -> None:
    with httpx.Client(base_url=stack.client.base_url) as operator:
        operator.get(httpx.URL(stack.manage("signin").strip()).path)
        assert any(name.startswith("reef-session-") for name in operator.cookies)
        with operator.stream("GET", "/events", headers=EVENT_STREAM) as answer:
            first = next(events_of(answer.iter_lines()))

    assert (answer.status_code, first.kind) == (200, "hello")


def test_stream_of_unknown_lieutenant_is_404(stack: Stack) -> None:
    answer = stack.client.get(f"{LIEUTENANTS}/nobody/stream")

    assert answer.status_code == 404
    assert answer.json() == {"error": "Lieutenant not found"}


def test_stream_by_id_survives_destruction(stack: Stack) -> None:
    stack.create("mortal")
    pk = stack.get("mortal")["id"]
    stack.client.delete(f"{LIEUTENANTS}/mortal")

    with stack.client.stream("GET", f"{LIEUTENANTS}/{pk}/stream?after=0") as answer:
        received_entries = next(
            each for each in events_of(answer.iter_lines()) if each.kind == "status"
        )
    assert received_entries.data["status"] == "destroyed"


# -- a transcript ------------------------------------------------------------------------------


def test_events_arrive_once_and_in_order(stack: Stack) -> None:
    stack.create("random")
    follower = Follower(stack, "random")
    rng = random.Random(11)
    stack.send("random", "THINK first")
    stack.send("random", f"TOKENS {WORDS} 100")
    stack.send("random", "TOOL last")

    # Disconnect after a few events, repeatedly, and continue from the last event's id.
    while follower.connects < 60:
        left = rng.randint(1, 4)

        def has_enough(event: Event) -> bool:
            nonlocal left
            left -= event.rev is not None
            return left <= 0 or idle(event)

        follower.follow(has_enough)
        if stack.get("random")["status"] == "idle":
            break
    wait_idle(stack, "random")
    # A new connection begins with the current state, whatever was missed.
    follower.follow(idle)

    assert follower.connects > 10
    assert follower.revs == sorted(set(follower.revs))
    assert follower.is_whole()
    texts = [each["text"] for each in follower.entries.values() if each["kind"] == "text"]
    assert " ".join(f"w{number}" for number in range(WORDS)) in texts


def test_all_clients_receive_the_same_events(stack: Stack) -> None:
    stack.create("shared")
    early, second = Follower(stack, "shared"), Follower(stack, "shared")
    done = threading.Event()

    def finished(event: Event) -> bool:
        return idle(event) and done.is_set()

    threads = [threading.Thread(target=each.follow, args=(finished,)) for each in (early, second)]
    for thread in threads:
        thread.start()
    until(lambda: early.statuses and second.statuses)
    done.set()
    stack.send("shared", f"TOKENS {WORDS} 300")
    for thread in threads:
        thread.join(60)
    late = Follower(stack, "shared")
    late.follow(idle)

    assert early.is_whole()
    assert second.is_whole()
    assert late.is_whole()
    # The first two received each piece; the late client receives the result only.
    assert early.revs == second.revs
    assert len(late.revs) < len(early.revs)


def test_stream_without_cursor_starts_now(stack: Stack) -> None:
    stack.create("now")
    stack.send("now", "before")
    wait_idle(stack, "now")
    received: list[Event] = []
    with stack.client.stream("GET", f"{LIEUTENANTS}/now/stream") as answer:
        for event in events_of(answer.iter_lines()):
            received.append(event)
            if len(received) == 1:
                stack.send("now", "after")
            elif idle(event):
                break

    texts = {each.data["text"] for each in received if each.kind == "entry"}
    assert "echo: after" in texts
    assert "echo: before" not in texts


def test_unknown_cursor_causes_reload(stack: Stack) -> None:
    stack.create("future")

    with stack.client.stream("GET", f"{LIEUTENANTS}/future/stream?after=999999") as answer:
        first = next(events_of(answer.iter_lines()))

    assert (first.kind, first.rev) == ("reload", stack.get("future")["rev"])


def test_stream_continues_without_redis_and_after_its_return(stack: Stack) -> None:
    stack.create("deaf")
    follower = Follower(stack, "deaf")
    received: list[set[str]] = []
    pk = stack.get("deaf")["id"]
    thread = threading.Thread(target=follower.follow, args=(lambda _: follower.rev < 0, 90))
    thread.start()
    listing = threading.Thread(target=_read_change_stream, args=(stack, received, pk))
    try:
        until(lambda: follower.statuses)
        stack.kill("redis")
        listing.start()
        stack.send("deaf", "without")
        wait_idle(stack, "deaf")
        until(lambda: "echo: without" in _texts(follower))
        stack.start("redis")
        # Clients of the change stream get a complete update when Redis is back.
        listing.join(30)
        assert any(pk in ids for ids in received)
        stack.send("deaf", "with")
        until(lambda: "echo: with" in _texts(follower))
        wait_idle(stack, "deaf")
        until(follower.is_whole)
        assert follower.revs == sorted(set(follower.revs))
        assert follower.connects == 1
    finally:
        follower.rev = -1
        stack.client.delete(f"{LIEUTENANTS}/deaf")
        thread.join(30)


def _texts(follower: Follower) -> list[str]:
    return [each["text"] for each in list(follower.entries.values()) if each["kind"] == "text"]


def _read_change_stream(stack: Stack, received: list[set[str]], pk: str) -> None:
    """Read the stream of changes until an event names this lieutenant."""
    with stack.client.stream("GET", NOTICES, headers=EVENT_STREAM, timeout=60) as answer:
        for event in events_of(answer.iter_lines()):
            if event.kind == "lieutenants":
                received.append(set(event.data["ids"]))
                if pk in received[-1]:
                    return


# -- the change stream -------------------------------------------------------------------------


def test_listing_sends_at_most_four_events_a_second(stack: Stack) -> None:
    names = [f"many-{number}" for number in range(4)]
    for name in names:
        stack.create(name)
    ids = {stack.get(name)["id"] for name in names}
    times: list[float] = []
    received_entries: set[str] = set()
    has_enough = threading.Event()

    def send_messages() -> None:
        while not has_enough.is_set():
            for name in names:
                stack.send(name, "hello")

    talking = threading.Thread(target=send_messages)
    try:
        with stack.client.stream("GET", NOTICES, headers=EVENT_STREAM, timeout=30) as answer:
            stream = events_of(answer.iter_lines())
            assert next(stream).kind == "hello"
            talking.start()
            while len(times) < 8:
                received_entries |= set(next(stream).data["ids"])
                times.append(time.monotonic())
    finally:
        has_enough.set()
        talking.join()

    assert received_entries >= ids
    # Delayed events may arrive close together, but the average rate is limited.
    assert (times[-1] - times[0]) / (len(times) - 1) > 0.23


# -- the event log -----------------------------------------------------------------------------


@dataclass
class LogFollower:
    """A client of the event log that continues behind the last number it has seen."""

    stack: Stack
    query: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    last: int | None = None
    events: list[dict[str, Any]] = field(default_factory=list)
    is_open: threading.Event = field(default_factory=threading.Event)

    def follow(self, until_subject: str, seconds: float = 60.0) -> None:
        """Read, over as many connections as it takes, until an event has this subject."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            last = {} if self.last is None else {"last-event-id": str(self.last)}
            headers = {**EVENT_STREAM, **self.headers, **last}
            path = f"/events?{self.query}"
            try:
                with self.stack.client.stream("GET", path, headers=headers, timeout=20) as answer:
                    if answer.status_code != 200:
                        continue
                    if self._read(events_of(answer.iter_lines()), until_subject):
                        return
            except httpx.TransportError:
                # The edge was killed.
                continue
        raise AssertionError(f"no event about {until_subject}")

    def _read(self, found: Iterator[Event], until_subject: str) -> bool:
        for event in found:
            self.last = self.last if event.rev is None else event.rev
            if event.kind == "hello":
                self.is_open.set()
            if event.kind != "log":
                continue
            assert event.rev == event.data["id"]
            self.events.append(event.data)
            if event.data["subject"] == until_subject:
                return True
        return False


def add_node(stack: Stack, vm_id: str, parent: str | None = None) -> None:
    body = {"vmId": vm_id, "name": vm_id, "category": "swarm_vm", "parentVmId": parent}
    stack.client.post("/vm-tree/vms", json=body).raise_for_status()


def following(follower: LogFollower, until_subject: str) -> threading.Thread:
    thread = threading.Thread(target=follower.follow, args=(until_subject,))
    thread.start()
    assert follower.is_open.wait(20)
    return thread


def test_log_streams_continue_while_the_edge_is_killed(stack: Stack) -> None:
    add_node(stack, "log-top")
    followers = [
        LogFollower(stack, "cursor=0"),
        LogFollower(stack, "kind=tree&subtree=log-top"),
    ]
    threads = [following(each, "log-last") for each in followers]
    for number in range(12):
        add_node(stack, f"log-{number}", "log-top")
        if number in (3, 7):
            stack.kill("edge")
            stack.start("edge")
            until(stack.is_responding, 30)
    add_node(stack, "log-last", "log-top")
    for thread in threads:
        thread.join(60)

    everything, subtree = followers
    pages = stack.client.get("/events?limit=1000").json()["events"]
    last = next(n for n, each in enumerate(pages) if each["subject"] == "log-last")
    assert everything.events == pages[: last + 1]
    assert [each["subject"] for each in subtree.events] == [
        *(f"log-{number}" for number in range(12)),
        "log-last",
    ]


@pytest.mark.rotated
@pytest.mark.timeout(240)
def test_command_line_follows_while_the_edge_is_killed(stack: Stack) -> None:
    add_node(stack, "cli-top")
    words = ["events", "--kind", "tree", "--subtree", "cli-top", "--json"]
    environment = {**stack.env, "VERS_INFRA_URL": f"http://127.0.0.1:{stack.port}"}
    argv = [sys.executable, "-m", "reef_site.cli", *words]
    with subprocess.Popen(
        argv, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        printed = map(json.loads, process.stdout)
        try:
            # The first one may come before it follows.
            first = threading.Thread(target=lambda: next(printed))
            first.start()
            for number in range(120):
                add_node(stack, f"cli-early-{number}", "cli-top")
                first.join(0.5)
                if not first.is_alive():
                    break
            assert not first.is_alive()
            stack.kill("edge")
            stack.start("edge")
            until(stack.is_responding, 60)
            add_node(stack, "cli-late", "cli-top")
            assert any(each["subject"] == "cli-late" for each in printed)
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == INTERRUPTED
        finally:
            process.kill()


def test_log_stream_of_a_node_has_what_it_may_read(stack: Stack) -> None:
    add_node(stack, "log-own")
    add_node(stack, "log-below", "log-own")
    token = stack.client.post("/vm-tree/vms/log-own/token").json()["token"]
    node = LogFollower(stack, headers={"authorization": f"Bearer {token}"})
    thread = following(node, "log-end")
    key = "/vers-config/REEF_AGENT_MODEL"
    stack.client.put(key, json={"value": "stub/one", "vm": "log-below"}).raise_for_status()
    stack.client.put(key, json={"value": "stub/two"}).raise_for_status()
    add_node(stack, "log-end")
    thread.join(60)

    found = [(each["kind"], each["vmId"]) for each in node.events]
    assert ("tree.created", "log-end") in found
    assert [vm_id for kind, vm_id in found if kind == "config.set"] == ["log-below"]
    whole = stack.client.get("/events?kind=config").json()["events"]
    assert [each["vmId"] for each in whole] == ["log-below", None]


def test_log_continues_without_redis(stack: Stack) -> None:
    follower = LogFollower(stack, "kind=tree")
    thread = following(follower, "log-without-redis")
    stack.kill("redis")
    try:
        add_node(stack, "log-without-redis")
        thread.join(60)
        assert not thread.is_alive()
    finally:
        stack.start("redis")


def test_unfiltered_stream_has_notices_and_events(stack: Stack) -> None:
    kinds: set[str] = set()
    with stack.client.stream("GET", "/events", headers=EVENT_STREAM, timeout=30) as answer:
        for event in events_of(answer.iter_lines()):
            if event.kind == "hello":
                add_node(stack, "log-and-notice")
            kinds.add(event.kind)
            if kinds >= {"hello", "log", "nodes"}:
                break


def test_wrong_filter_of_a_stream_is_refused(stack: Stack) -> None:
    answer = stack.client.get("/events?since=soon", headers=EVENT_STREAM)
    assert (answer.status_code, answer.json()["error"][:6]) == (400, "since:")


# -- slow and disconnected clients -------------------------------------------------------------


def test_slow_client_gets_reload() -> None:
    async def play() -> None:
        channel = Channel("x", 0)
        slow, quick = Client(), Client()
        channel.clients |= {slow, quick}
        received: list[bytes] = []

        async def listen() -> None:
            received.extend([chunk async for chunk in quick.chunks()])

        listening = asyncio.create_task(listen())
        for number in range(streams.MAX_QUEUED + 100):
            channel.tell(b"id: %d\n\n" % number)
            await asyncio.sleep(0)
        assert channel.clients == {quick}
        late = [chunk async for chunk in slow.chunks()]
        assert len(late) == streams.MAX_QUEUED + 1
        assert late[-1] == b"event: reload\ndata: {}\n\n"
        quick.end()
        await listening
        assert len(received) == streams.MAX_QUEUED + 101

    asyncio.run(play())


def test_client_queue_is_limited_by_bytes() -> None:
    client = Client()
    chunk = b"x" * (1 << 20)

    taken = sum(client.take(chunk) for _ in range(100))

    assert taken == streams.MAX_QUEUED_BYTES >> 20


def test_listener_collects_each_id_once() -> None:
    listener = Listener()
    for _ in range(100_000):
        listener.tell(["a", "b"])

    assert listener.changed == {"a", "b"}


def test_client_that_stops_reading_is_dropped(stack: Stack) -> None:
    """With full buffers and a full queue, the client gets a reload and can start again."""
    stack.create("stuck")
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(30)
        connection.connect(("127.0.0.1", stack.port))
        ask = f"GET {LIEUTENANTS}/stuck/stream HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
        connection.sendall(f"{ask}Authorization: Bearer {TOKEN}\r\n\r\n".encode())
        assert connection.recv(12) == b"HTTP/1.1 200"
        for number in range(8):
            stack.send("stuck", str(number) * 1_000_000)
        wait_idle(stack, "stuck")

        received = b""
        while chunk := connection.recv(1 << 20):
            received = received[-1000:] + chunk

    assert received.endswith(b"event: reload\ndata: {}\n\n\r\n0\r\n\r\n")
    late = Follower(stack, "stuck")
    late.follow(idle)
    assert late.is_whole()


def test_disconnected_clients_are_cleaned_up(stack: Stack) -> None:
    stack.create("left")
    edge_pid = stack.processes["edge"].pid

    def sockets() -> int:
        links = Path(f"/proc/{edge_pid}/fd").iterdir()
        return sum(_is_socket(link) for link in links)

    opened = [stack.client.stream("GET", f"{LIEUTENANTS}/left/stream?after=0") for _ in range(30)]
    answers = [each.__enter__() for each in opened]
    assert {each.status_code for each in answers} == {200}
    assert sockets() > 30
    for each in opened:
        each.__exit__(None, None, None)

    until(lambda: sockets() < 15)


def _is_socket(link: Path) -> bool:
    try:
        return os.readlink(link).startswith("socket:")
    except OSError:
        return False


def test_channel_ends_with_its_last_client(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The transcript is not read any more after the last client has left."""
    rev = 0
    monkeypatch.setattr(streams, "_first_events", lambda _id, _after: (rev, b"", False))
    monkeypatch.setattr(streams, "_events_and_facts", lambda _id, after: (after, b"facts"))
    monkeypatch.setattr(streams, "_new_events", lambda _channel: (rev, [], False, b"facts"))
    monkeypatch.setattr(Streams, "_listen", lambda _self: None)

    async def play() -> None:
        house = Streams()
        one, other = house.transcript("x", None), house.transcript("x", None)
        assert await anext(one) == b": welcome\n\n"
        assert await anext(one) == b"facts"
        assert await anext(other) == b": welcome\n\n"
        assert await anext(other) == b"facts"
        task = house._channels["x"].task
        await one.aclose()
        assert house._channels["x"].clients
        await other.aclose()
        assert house._channels == {}
        assert task is not None
        await asyncio.wait({task}, timeout=5)
        assert task.cancelled()
        await house.close()

    asyncio.run(play())


def test_stream_ends_when_lieutenant_is_deleted(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(_channel: Channel) -> None:
        raise Lieutenant.DoesNotExist

    monkeypatch.setattr(streams, "_first_events", lambda _id, _after: (0, b"", False))
    monkeypatch.setattr(streams, "_events_and_facts", lambda _id, after: (after, b"facts"))
    monkeypatch.setattr(streams, "_new_events", gone)
    monkeypatch.setattr(Streams, "_listen", lambda _self: None)

    async def play() -> list[bytes]:
        house = Streams()
        received = [chunk async for chunk in _within(house.transcript("x", None), 5)]
        assert house._channels == {}
        await house.close()
        return received

    assert asyncio.run(play())[-1] == b"event: reload\ndata: {}\n\n"


async def _within(chunks: AsyncIterator[bytes], seconds: float) -> AsyncIterator[bytes]:
    async with asyncio.timeout(seconds):
        async for chunk in chunks:
            yield chunk


def test_missed_events_are_sent_in_pages(db: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "BATCH_SIZE", 3)
    lieutenant = Lieutenant.objects.create(name="page", role="tests", host="h", rev=12)
    process = Process.objects.create(lieutenant=lieutenant, host="h", transport="local")
    facts = {"lieutenant": lieutenant, "process": process, "at": timezone.now()}
    for rev in range(1, 9):
        Entry.objects.create(**facts, kind=Entry.Kind.NOTICE, rev=rev)
    said = Entry.objects.create(**facts, kind=Entry.Kind.TEXT, rev=9, final=False)
    for rev in (10, 11, 12):
        Chunk.objects.create(lieutenant=lieutenant, entry=said, rev=rev, text=f"{rev} ")

    seen, events, more = streams._first_events(lieutenant.pk, 0)
    pages = 1
    while more:
        seen, page, more = streams._events_after(lieutenant.pk, seen)
        events, pages = events + page, pages + 1

    numbers = [int(line[4:]) for line in events.split(b"\n") if line.startswith(b"id: ")]
    assert numbers == list(range(1, 13))
    assert (seen, pages) == (12, 3)
