"""The batching writer waits for callers who come back at once, and for nobody else."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from registry import batching
from registry.batching import Batcher, Returns


def play(act: Callable[[Batcher[int, int]], Any], **options: Any) -> list[int]:
    """Return the sizes of the batches while `act` uses a batcher; a write takes some ms."""
    sizes: list[int] = []

    def write(items: Sequence[int]) -> list[int]:
        sizes.append(len(items))
        time.sleep(0.003)
        return list(items)

    async def run() -> None:
        batcher: Batcher[int, int] = Batcher("reef-test", write, **options)
        async with asyncio.timeout(20):
            await act(batcher)
        await batcher.close()

    asyncio.run(run())
    return sizes


async def two_groups(batcher: Batcher[int, int]) -> None:
    """Let the second half of eight callers begin while the batch of the first one is written."""

    async def call(number: int) -> None:
        await asyncio.sleep(0.001 * (number >= 4))
        for _ in range(20):
            assert await batcher.ask(number) == number

    await asyncio.gather(*map(call, range(8)))


async def strangers(batcher: Batcher[int, int]) -> None:
    """Ask once each, a new one or two during each batch."""
    asked = []
    for number in range(100):
        asked.append(asyncio.ensure_future(batcher.ask(number)))
        await asyncio.sleep(0.0015)
    assert await asyncio.gather(*asked) == list(range(100))


def test_callers_who_come_back_share_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    # Enough even if the machine is busy: it ends as soon as all are there.
    monkeypatch.setattr(batching, "RETURN_SECONDS", 2.0)
    sizes = play(two_groups, awaits_returning=True)
    assert sum(sizes) == 160
    assert len(sizes) <= 24
    assert sizes[5] == 8


def test_a_lone_caller_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batching, "RETURN_SECONDS", 60.0)

    async def alone(batcher: Batcher[int, int]) -> None:
        for _ in range(5):
            assert await batcher.ask(1) == 1

    assert play(alone, awaits_returning=True) == [1] * 5


def test_callers_who_do_not_come_back_delay_others_rarely(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    waits: list[float] = []

    class Waiting(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            waits.append(timeout or 0)
            return super().wait(0)

    async def with_counted_waits(batcher: Batcher[int, int]) -> None:
        batcher._all_there = Waiting()
        await strangers(batcher)

    monkeypatch.setattr(batching, "RETURN_SECONDS", 60.0)
    sizes = play(with_counted_waits, awaits_returning=True)
    assert sum(sizes) == 100
    assert 0 < len(waits) <= 2 + len(sizes) / 4


def test_callers_are_awaited_only_where_it_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batching, "RETURN_SECONDS", 60.0)
    assert sum(play(strangers)) == 100


def test_waiting_that_brings_nobody_is_tried_ever_more_rarely() -> None:
    returns = Returns()
    tries = []
    for batch in range(400):
        if returns.are_likely():
            tries.append(batch)
            returns.note(came=False)
    pauses = [after - before for before, after in itertools.pairwise(tries)]
    assert pauses[:5] == [3, 5, 9, 17, 33]
    assert set(pauses[5:]) == {batching.MAX_SKIPPED + 1}
    while not returns.are_likely():
        pass
    returns.note(came=True)
    assert returns.are_likely()
    assert returns.are_likely()
