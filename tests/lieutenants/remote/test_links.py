"""Links to machines that answer late, or print without an end."""

from __future__ import annotations

import json
import random
import time
import zlib
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bootloader.exceptions import ShellRefused
from lieutenants.exceptions import Unreachable
from lieutenants.supervision.transports.ssh import connection as links
from lieutenants.supervision.transports.ssh import session as sessions
from lieutenants.supervision.transports.ssh.follow import Follow
from lieutenants.supervision.transports.ssh.frames import Decoder, Frame
from lieutenants.supervision.transports.ssh.link import Link
from lieutenants.supervision.transports.ssh.places import Place
from lieutenants.supervision.transports.ssh.relay import journals
from lieutenants.supervision.transports.ssh.session import RelaySession
from lieutenants.supervision.transports.ssh.transport import SshTransport


class Silent:
    """A stream that takes what is written, and says what it is told to say."""

    def __init__(self, says: bytes = b"") -> None:
        self.says = says
        self.written = b""
        self.ended = False
        self.has_more = False

    def listen(self, bell: Callable[[], object]) -> None:
        bell()

    def read(self) -> bytes:
        return self.says

    def write(self, data: bytes) -> int:
        self.written += data
        return len(data)

    def errors(self) -> str:
        return ""

    def close(self) -> None:
        self.ended = True


class Still:
    """A pump that does nothing by itself."""

    def add(self, _link: object) -> None: ...

    def ring(self, _link: object) -> None: ...

    def connect(self, _work: object, **_: object) -> None: ...

    def close(self, _work: object) -> None: ...


def open_link(stream: Silent) -> Link:
    link = Link(Place(vm_id="vm-1"), Still())  # type: ignore[arg-type]
    session = RelaySession(stream, stream, Decoder(), {}, [], 0.1, 0.1)  # type: ignore[arg-type]
    link._begin(session)
    return link


def sent(link: Link, stream: Silent) -> list[str]:
    link.flush()
    found = [json.loads(line)["op"] for line in stream.written.splitlines()]
    stream.written = b""
    return found


def test_pings_come_more_often_while_an_answer_is_overdue() -> None:
    stream = Silent()
    link = open_link(stream)
    now = time.monotonic()
    link.tick(now + links.OVERDUE_SECONDS + 1)
    assert sent(link, stream) == [], "nothing is awaited"
    link._write({"op": "list", "n": 1})
    assert sent(link, stream) == ["list"]
    link.tick(now + links.OVERDUE_SECONDS - 1)
    assert sent(link, stream) == []
    link.tick(now + links.OVERDUE_SECONDS + 1)
    assert sent(link, stream) == ["ping"]


def test_pong_shows_that_a_slow_machine_can_be_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(links, "STALL_SECONDS", 0.0)
    stream = Silent()
    link = open_link(stream)
    link._write({"op": "list", "n": 1})
    assert "nothing came from it" in link.trouble()
    stream.says = _compressed({"pong": 1})
    link.receive()
    assert link.trouble() == ""


def _compressed(*values: Any) -> bytes:
    return zlib.compress(b"".join(json.dumps(each).encode() + b"\n" for each in values))


def test_login_shell_that_prints_without_an_end_is_refused() -> None:
    stream = Silent(b"x" * 100_000)
    with pytest.raises(ShellRefused, match="prints without an end"):
        sessions._greet(stream)


def test_login_shell_that_prints_much_before_the_relay_is_not_refused() -> None:
    noise = b"x" * (sessions._MAX_HEAD // 2)
    stream = Silent(noise + b"reef-relay 1\n" + _compressed({"hello": {}}))
    _decoder, frames = sessions._greet(stream)
    assert frames[0].head == {"hello": {}}


def pauses_of(monkeypatch: pytest.MonkeyPatch, link: Link, lives: list[float]) -> list[float]:
    """Return how long the link waits after connections that live so long and say nothing."""
    now, found = time.monotonic(), []
    # Only the link's own clock: other threads would stand still when the real one is behind.
    monkeypatch.setattr(links, "time", SimpleNamespace(monotonic=lambda: now))
    monkeypatch.setattr(random, "uniform", lambda *_: 1.0)
    for seconds in lives:
        stream = Silent()
        session = RelaySession(stream, stream, Decoder(), {}, [], 0.1, 0.1)  # type: ignore[arg-type]
        link._begin(session)
        now += seconds
        stream.ended = True
        link.receive()
        found.append(link._backoff.until - now)
    return found


def test_relay_that_dies_after_its_hello_is_tried_less_and_less(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    link = Link(Place(vm_id="vm-1"), Still())  # type: ignore[arg-type]
    assert pauses_of(monkeypatch, link, [0.1] * 4) == pytest.approx([0.5, 1, 2, 4])
    assert pauses_of(monkeypatch, link, [links.STABLE_SECONDS, 1]) == pytest.approx([0.5, 1])


def test_new_part_of_a_journal_is_a_success_and_a_repeated_one_is_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stream = Silent()
    link = open_link(stream)
    number = link.follow("~/x", 0).number

    def after(offset: int) -> float:
        assert len(pauses_of(monkeypatch, link, [0.1] * 3)) == 3
        frame = Frame({"r": number, "o": offset, "z": 3}, b"[]\n")
        link._take(frame)
        return pauses_of(monkeypatch, link, [0.1])[0]

    assert after(0) == pytest.approx(0.5)
    assert after(0) > 1
    assert after(3) == pytest.approx(0.5)


def test_nul_bytes_in_a_journal_are_a_gap(tmp_path: Path) -> None:
    whole, torn, rest = b"[1]\n[2]\n", b"[3, 4", b"[5]\n"
    lost = b"\0" * 5000 + b"5]\n"
    (tmp_path / "journal.jsonl").write_bytes(whole + torn + lost + rest)
    relay, here = journals.Follow(1, str(tmp_path), 0), Follow(1, str(tmp_path), 0)

    def receive() -> None:
        for frame in relay.frames(1 << 20)[0]:
            head, _, data = frame.partition(b"\n")
            facts = json.loads(head)
            if "gap" in facts:
                here.add_gap(facts["o"], facts["gap"])
            else:
                here.add(facts["o"], data)

    receive()
    receive()
    receive()
    relay.close()
    assert here.read(0, 1000) == whole
    assert here.read(len(whole), 1000) == b"\0"
    begin = here.skip_gap()
    assert begin == len(whole + torn + lost)
    # What follows has come along: the relay does not send it again.
    assert here.read(begin, 1000) == rest
    assert here.end == begin + len(rest)


def test_nothing_waits_for_the_journal_of_a_machine_that_is_gone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    link = Link(Place(vm_id="vm-1"), Still())  # type: ignore[arg-type]
    monkeypatch.setattr(SshTransport, "link", link)
    transport = SshTransport(link.place)
    assert not transport.can_read("~/x", 10, 20)
    link.is_lost = True
    assert transport.can_read("~/x", 10, 20)
    assert transport.read("~/x", 10, 10) == b""


class Slow(Link):
    """The connection to a machine that needs this long for each answer, which is at hand."""

    needs = 0.0

    def _await(self, future: Future[dict[str, Any]], number: int, seconds: float) -> dict[str, Any]:
        if self.needs >= seconds:
            raise Unreachable(f"The machine did not answer within {seconds:g} s")
        return {"ok": True, "ended": []}


def test_machines_get_the_time_that_ends_of_agents_take(monkeypatch: pytest.MonkeyPatch) -> None:
    link = Slow(Place(vm_id="vm-1"), Still())  # type: ignore[arg-type]
    link._begin(RelaySession(Silent(), Silent(), Decoder(), {}, [], 0.1, 0.1))  # type: ignore[arg-type]
    monkeypatch.setattr(SshTransport, "link", link)
    transport = SshTransport(link.place)
    link.needs = 20.0
    transport.remove("L1")
    transport.end("~/x", {}, keeper=True)
    with pytest.raises(Unreachable):
        transport.find("~/x")
    link.needs = 100.0
    assert transport.evict([], once="copy-1") == []
    with pytest.raises(Unreachable):
        transport.remove("L1")
