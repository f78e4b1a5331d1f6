"""Connections to machines: their queues, turns and ends, without waiting for real machines."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from bootloader.exceptions import NoSuchMachine, ShellUnavailable
from bootloader.providers.base import Login
from bootloader.providers.ssh import address_limits, shell
from bootloader.providers.ssh.protocol import Shell
from lieutenants.exceptions import NotConnected
from lieutenants.supervision.daemon_pool import DaemonPool
from lieutenants.supervision.transports.ssh import backoff, connection, link, logins
from lieutenants.supervision.transports.ssh.backoff import Backoff
from lieutenants.supervision.transports.ssh.frames import Decoder
from lieutenants.supervision.transports.ssh.link import Link
from lieutenants.supervision.transports.ssh.places import Place
from lieutenants.supervision.transports.ssh.pump import Pump
from lieutenants.supervision.transports.ssh.send_queue import SendQueue
from lieutenants.supervision.transports.ssh.session import RelaySession
from lieutenants.supervision.transports.ssh.transport import Links
from tests.bootloader.ssh_servers import Sshd, keygen
from tests.lieutenants.remote.lines import Line
from tests.waiting import until


@dataclass(frozen=True)
class Way(Place):
    """A place with a way of its own to log in."""

    log_in: Callable[[float], Shell] = field(default=lambda _: pytest.fail("not expected"))

    def connect(self, timeout: float) -> Shell:
        return self.log_in(timeout)


class HandPump(Pump):
    """Keeps logins and closes until the test runs them."""

    def __init__(self) -> None:
        super().__init__()
        self.logins: list[Callable[[], None]] = []
        self.kinds: list[tuple[bool, bool]] = []

    def add(self, link: object) -> None:
        pass

    def connect(self, work: Callable[[], None], *, is_spare: bool, is_awaited: bool) -> None:
        self.logins.append(work)
        self.kinds.append((is_spare, is_awaited))

    def close(self, work: Callable[[], None]) -> None:
        work()

    def run(self) -> None:
        """Run the logins that wait."""
        logins, self.logins = self.logins, []
        for work in logins:
            work()


class NarrowStream:
    """A stream that takes as many bytes as the test allows."""

    ended = has_more = False

    def __init__(self) -> None:
        self.room = 0
        self.written = b""

    def write(self, data: bytes) -> int:
        done = data[: self.room]
        self.written += done
        self.room -= len(done)
        return len(done)

    def listen(self, bell: object) -> None: ...
    def read(self) -> bytes:
        return b""

    def errors(self) -> str:
        return ""

    def close(self) -> None: ...


class NoShell:
    def close(self) -> None: ...


def opened(pump: Pump, stream: NarrowStream, monkeypatch: pytest.MonkeyPatch) -> Link:
    """Return an open link over this stream."""
    found: Any = RelaySession(NoShell(), stream, Decoder(), {}, [], 0.0, 0.0)  # type: ignore[arg-type]
    monkeypatch.setattr(logins, "open_session", lambda _: found)
    made = Link(Way(), pump)
    made.wait_until_open(10)
    return made


# -- requests --------------------------------------------------------------------------------


def test_queue_gives_back_what_nobody_has_begun_to_write() -> None:
    queue = SendQueue()
    for number in (1, 2, 3):
        queue.add(b"request%d\n" % number, number)
    assert queue.head(12) == b"request1\nreq"
    assert not queue.withdraw(2), "it is in the hands of the writer"
    queue.advance(10)
    assert not queue.withdraw(2), "a part of it is written"
    assert queue.withdraw(3)
    assert not queue.withdraw(1)
    assert queue.head(100) == b"equest2\n"
    queue.advance(8)
    assert not queue


def test_request_that_timed_out_before_it_was_sent_is_never_sent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stream, pump = NarrowStream(), Pump()
    made = opened(pump, stream, monkeypatch)
    for _ in range(3):
        with pytest.raises(NotConnected, match="nothing was sent"):
            made.ask({"op": "send", "text": "x" * 1000}, seconds=0.05, connect=False)
    stream.room = 1 << 20
    made.post({"op": "later"})
    until(lambda: b"later" in stream.written)
    assert b"xxx" not in stream.written
    made.close()


@pytest.mark.rotated
def test_slow_upload_is_no_silence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "DEAD_SECONDS", 3.0)
    monkeypatch.setattr(link, "START_SECONDS", 3.0)
    server = Sshd(tmp_path, SetEnv=f"HOME={tmp_path}")
    line = Line(server.port)
    way = server.login(port=line.port)
    made = Link(Way(log_in=lambda timeout: shell.connect(way, timeout)), Pump())
    first = made.wait_until_open(20, force=True)
    # The programs take about twice the limits.
    line.rate = line_rate(6.0)
    made.install()
    line.rate = 0
    assert made.session is first
    assert made.ask({"op": "list"})["runs"] == []
    made.close()
    line.close()
    server.stop()


def line_rate(seconds: float) -> int:
    from lieutenants.supervision.transports.ssh import programs

    return int(sum(map(len, programs.encoded_files().values())) / seconds)


# -- turns -----------------------------------------------------------------------------------


def test_dead_machines_hold_up_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backoff, "FIRST_SECONDS", 0.01)
    monkeypatch.setattr(backoff, "MAX_SECONDS", 0.05)
    over, pump = threading.Event(), Pump()
    stuck = threading.Semaphore(0)

    def hang(tries: dict[str, int], _: float) -> Shell:
        tries["done"] = tries.get("done", 0) + 1
        if tries["done"] > backoff.DEAD_FAILURES:
            stuck.release()
            over.wait(60)
        raise ShellUnavailable("it does not answer")

    dead = []
    for number in range(20):
        tries = dict[str, int]()
        dead.append(Link(Way(str(number), log_in=partial(hang, tries)), pump))
        dead[-1].follow("~/x", 0)
    for _ in range(8):
        assert stuck.acquire(timeout=20)
    server = Sshd(tmp_path, SetEnv=f"HOME={tmp_path}")
    way = server.login()
    good = Link(Way(log_in=lambda timeout: shell.connect(way, timeout)), pump)
    assert good.wait_until_open(10)
    # Its end is not held up either.
    session = good.session
    assert session
    good.close()
    until(lambda: session.stream.ended)
    over.set()
    for each in dead:
        each.close()
    server.stop()


def test_login_that_somebody_waits_for_comes_first() -> None:
    pump = HandPump()

    def fail(_: float) -> Shell:
        raise ShellUnavailable("it does not answer")

    made = Link(Way(log_in=fail), pump)
    made.follow("~/x", 0)
    made.tick(time.monotonic())
    assert pump.kinds == [(False, False)]
    waiting = threading.Thread(target=lambda: fails_to_open(made))
    waiting.start()
    until(lambda: len(pump.logins) == 2)
    assert pump.kinds[1] == (False, True)
    pump.run()
    waiting.join(10)
    assert not waiting.is_alive()
    assert "it does not answer" in made.trouble()


def fails_to_open(made: Link, *, is_probe: bool = False) -> None:
    with pytest.raises(NotConnected):
        made.wait_until_open(20, is_probe=is_probe)


def test_pauses_grow_for_machines_that_nobody_needs_now(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("random.uniform", lambda *_: 1.0)

    def pauses(*, is_wanted: bool) -> list[float]:
        found, now, machine = [], 0.0, Backoff()
        for _ in range(30):
            machine.fail(now, is_wanted=is_wanted)
            found.append(machine.until - now)
            now = machine.until
        return found

    assert pauses(is_wanted=False)[:3] == [0.5, 1.0, 2.0]
    assert pauses(is_wanted=False)[-1] == backoff.LONG_SECONDS
    assert pauses(is_wanted=True)[-1] == backoff.MAX_SECONDS
    machine = Backoff()
    for now in (0.0, 400.0):
        for _ in range(20):
            machine.fail(now, is_wanted=False)
    assert machine.until == 400 + backoff.LONG_SECONDS
    machine.hasten(401.0)
    assert machine.until == 401 + backoff.MAX_SECONDS


def test_lost_machine_is_not_tried_again() -> None:
    pump = HandPump()

    def fail(_: float) -> Shell:
        raise NoSuchMachine("it is gone")

    made = Link(Way(log_in=fail), pump)
    made.follow("~/x", 0)
    made.post({"op": "clean", "dir": "~/x"})
    made.tick(time.monotonic())
    pump.run()
    assert made.is_lost
    made.tick(time.monotonic() + 1000)
    assert pump.logins == []
    made.unfollow("~/x")
    made.tick(time.monotonic() + 1000)
    assert pump.logins == [], "what was to be sent is forgotten"
    made.close()


def test_connection_that_nobody_needs_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: float) -> Shell:
        raise ShellUnavailable("it does not answer")

    links, place = Links(), Way("x", log_in=fail)
    made = links.get(place)
    made.tick(time.monotonic())
    assert links.find(place) is made
    monkeypatch.setattr(connection, "IDLE_SECONDS", 0.0)
    until(lambda: links.find(place) is None)
    with pytest.raises(NotConnected):
        made.wait_until_open(5, force=True)
    assert links.get(place) is not made


# -- threads ---------------------------------------------------------------------------------


def test_pool_loses_no_slot(monkeypatch: pytest.MonkeyPatch) -> None:
    pool, done = DaemonPool(1, "test"), threading.Semaphore(0)

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        pool.submit(done.release)
    pool.submit(lambda: (_ for _ in ()).throw(ValueError("a job that fails")))
    pool.submit(done.release)
    for _ in range(2):
        assert done.acquire(timeout=10)


# -- addresses -------------------------------------------------------------------------------


def test_few_connections_to_one_address_are_opened_at_a_time(tmp_path: Path) -> None:
    listener = socket.create_server(("127.0.0.1", 0), backlog=64)
    lock, now, peak, problems = threading.Lock(), [0], [0], list[str]()

    def serve(near: socket.socket) -> None:
        with lock:
            now[0] += 1
            peak[0] = max(peak[0], now[0])
        near.settimeout(0.1)
        with suppress(TimeoutError):
            # Nothing is said, while others come.
            while near.recv(1000):
                pass
        with lock:
            now[0] -= 1
        near.close()

    def accept() -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=serve, args=[listener.accept()[0]]).start()

    def log_in(way: Login) -> None:
        try:
            shell.connect(way, 20)
        except ShellUnavailable as error:
            problems.append(str(error))

    threading.Thread(target=accept, daemon=True).start()
    way = Login("127.0.0.1", listener.getsockname()[1], "root", keygen(tmp_path / "key"))
    threads = [threading.Thread(target=log_in, args=[way]) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    listener.close()
    assert len(problems) == 16
    assert peak[0] <= address_limits.AT_ONCE


def test_probe_takes_no_turn_of_a_machine_with_work() -> None:
    pump = HandPump()

    def fail(_: float) -> Shell:
        raise ShellUnavailable("it does not answer")

    made = Link(Way(log_in=fail), pump)
    probe = threading.Thread(target=lambda: fails_to_open(made, is_probe=True))
    probe.start()
    until(lambda: pump.kinds == [(True, False)])
    start = threading.Thread(target=lambda: fails_to_open(made))
    start.start()
    until(lambda: pump.kinds == [(True, False), (False, True)])
    pump.run()
    for thread in (probe, start):
        thread.join(10)
        assert not thread.is_alive()
