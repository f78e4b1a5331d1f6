"""Small reads on the event loop: never long, never waiting, else left to a thread."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from django.db import connection

from reef_site.common import asgi
from reef_site.common.fast_routes import FastRoute
from reef_site.common.queries import LoopConnection
from registry.fast_path import FastPath
from registry.fast_reads import LATER, ReadRequest
from registry.fast_routes import ROUTES
from registry.loop_reader import MAX_AT_ONCE, LoopReader
from registry.remembered import Remembered
from vmtree.queries import tree_version

LONG = """WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 10000000)
    SELECT count(*) FROM n"""
ONE = ROUTES["registry.vm"]


@pytest.fixture
def link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LoopConnection]:
    """Connect to a database with one row, in which another connection is writing."""
    path = tmp_path / "a database?.sqlite3"
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("PRAGMA journal_mode = wal")
    other.execute("CREATE TABLE t (x)")
    other.execute("INSERT INTO t VALUES (1)")
    other.execute("BEGIN IMMEDIATE")
    other.execute("UPDATE t SET x = 2")
    monkeypatch.setitem(connection.settings_dict, "NAME", path)
    yield LoopConnection()
    other.close()


def test_the_loop_reads_beside_a_writer_and_writes_nothing(link: LoopConnection) -> None:
    assert link.fetch("SELECT x FROM t WHERE x = :x", {"x": 1}) == [(1,)]
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        link.fetch("DELETE FROM t", {})


def test_a_long_statement_is_broken_off_and_the_next_one_is_not(link: LoopConnection) -> None:
    with pytest.raises(sqlite3.OperationalError, match="interrupted"):
        link.fetch(LONG, {})
    assert link.fetch(LONG.replace("10000000", "1000"), {}) == [(1000,)]
    assert link.fetch("SELECT x FROM t", {}) == [(1,)]


class FakeThread:
    """Stand-in for the thread, which answers with 201."""

    def put(self, request: ReadRequest, reply: Callable[[Any], None]) -> None:
        reply(asgi.JSONResponse(201, request.key.encode()))


class FakeReader:
    """Stand-in that answers with 200, and fails for some keys."""

    def read(self, requests: list[ReadRequest]) -> list[asgi.JSONResponse]:
        if any(each.key == "locked" for each in requests):
            raise sqlite3.OperationalError("locked")
        if any(each.key == "broken" for each in requests):
            raise ValueError("unforeseen")
        return [
            LATER if each.key == "long" else asgi.JSONResponse(200, each.key.encode())
            for each in requests
        ]


@pytest.mark.parametrize(
    ("keys", "statuses"),
    [
        (["a", "b"], [200, 200]),
        (["a", "long"], [200, 201]),
        (["a", "locked"], [201, 201]),
        (["a", "broken"], [None, None]),
        ([str(number) for number in range(MAX_AT_ONCE)] + ["long"], [200] * MAX_AT_ONCE + [201]),
    ],
)
def test_each_request_is_answered_once(
    link: LoopConnection, keys: list[str], statuses: list[int | None]
) -> None:
    async def play() -> list[asgi.JSONResponse | None]:
        reader = LoopReader(Remembered(), FakeThread())  # type: ignore[arg-type]
        reader._reader = FakeReader()  # type: ignore[assignment]
        futures = [asyncio.get_running_loop().create_future() for _ in keys]
        for key, future in zip(keys, futures, strict=True):
            reader.put(ReadRequest(None, ONE, key), future.set_result)
        found = list(await asyncio.wait_for(asyncio.gather(*futures), 10))
        reader.close()
        return found

    found = asyncio.run(play())
    assert [each and each.status for each in found] == statuses
    assert [each.body.decode() for each in found if each] == (keys if None not in statuses else [])


SLOW = FastRoute("/slow", lambda: f"({LONG})")
QUICK = FastRoute("/quick", lambda: "json_object('key', q.value)")
# A list that changes with the tree only, of more bytes than the loop compresses.
BIG = FastRoute("/big", lambda: "json_quote(hex(zeroblob(100000)))", of_tree=True, large=True)


@pytest.fixture
def on_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the event loop read an empty database, whose tree has a version."""
    path = tmp_path / "db.sqlite3"
    sqlite3.connect(path).close()
    monkeypatch.setitem(connection.settings_dict, "NAME", path)
    monkeypatch.setattr(tree_version, "is_kept", lambda _link: True)
    monkeypatch.setattr(tree_version, "current", lambda _link: 1)


async def ask(reader: LoopReader, *requests: ReadRequest) -> list[int]:
    """Return the statuses of requests that arrive in one round; 201 is the thread's."""
    futures = [asyncio.get_running_loop().create_future() for _ in requests]
    for request, future in zip(requests, futures, strict=True):
        reader.put(request, future.set_result)
    return [each.status for each in await asyncio.wait_for(asyncio.gather(*futures), 10)]


@pytest.mark.usefixtures("on_file")
def test_a_slow_route_does_not_slow_down_the_others_of_its_round() -> None:
    slow, quick = ReadRequest(None, SLOW, "x"), ReadRequest(None, QUICK, "x")

    async def play() -> list[list[int]]:
        reader = LoopReader(Remembered(), FakeThread())  # type: ignore[arg-type]
        found = [await ask(reader, slow, quick), await ask(reader, quick), await ask(reader, slow)]
        assert reader._slow == {(SLOW, "x")}
        reader.close()
        return found

    assert asyncio.run(play()) == [[201, 200], [200], [201]]


@pytest.mark.usefixtures("on_file")
def test_the_loop_compresses_no_large_body_but_sends_one() -> None:
    plain = ReadRequest(None, BIG, "")
    packed = plain._replace(takes_gzip=True)

    async def play() -> list[list[int]]:
        remembered = Remembered()
        reader = LoopReader(remembered, FakeThread())  # type: ignore[arg-type]
        assert not remembered.has(plain.wanted)
        found = [await ask(reader, plain), await ask(reader, packed)]
        assert (remembered.has(plain.wanted), remembered.has(packed.wanted)) == (True, False)
        # As the thread does it.
        memory = remembered.now(reader._link)
        memory.keep(packed.wanted, asgi.JSONResponse(200, b"packed"))
        found.append(await ask(reader, packed))
        reader.close()
        return found

    assert asyncio.run(play()) == [[200], [201], [200]]


@pytest.mark.parametrize(("long_texts", "is_on_loop"), [(False, True), (True, False)])
def test_long_texts_are_never_read_on_the_loop(long_texts: bool, is_on_loop: bool) -> None:
    path: Any = FastPath.__new__(FastPath)
    path._loop_reader, path._reader, path._lister = "loop", "thread", "lister"
    path._remembered = Remembered()
    route = FastRoute("/x", lambda: "NULL", long_texts=long_texts)
    assert path._reader_of(ReadRequest(None, route, "")) == ("loop" if is_on_loop else "thread")
