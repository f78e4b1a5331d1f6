"""Parts of reef are killed while lieutenants work: nothing is lost."""

from __future__ import annotations

import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.stack import Stack, pause
from tests.waiting import until

WORDS, RATE = 400, 20
CREW = [f"lt-{number}" for number in range(10)]


def number_story(words: int = WORDS) -> str:
    """Return the stand-in's answer to `TOKENS <words> …`."""
    return " ".join(f"w{number}" for number in range(words))


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    with Stack(tmp_path) as running:
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(running.create, CREW))
        yield running


def check_transcripts(stack: Stack, each: int = 1) -> None:
    """Check that every story was told once, in order, completely and without duplicates."""
    for name in CREW:
        stack.wait_idle(name)
        entries = stack.transcript(name)
        told = [entry["text"].strip() for entry in entries if entry["kind"] == "text"]
        assert told == [number_story()] * each, name
        assert all(entry["final"] for entry in entries)
        ids = [entry["id"] for entry in entries]
        assert ids == sorted(set(ids))
        messages = stack.client.get(f"/lieutenant/lieutenants/{name}/messages").json()["messages"]
        assert [message["state"] for message in messages] == ["accepted"] * each


@pytest.mark.timeout(240)
@pytest.mark.parametrize("times", [7, pytest.param(20, marks=pytest.mark.thorough)])
def test_repeatedly_killed_worker_loses_nothing(stack: Stack, times: int) -> None:
    chance = random.Random(4711)
    for name in CREW:
        assert stack.send(name, f"TOKENS {WORDS} {RATE}").status_code == 200
    for _ in range(times):
        pause(chance.uniform(0.1, 2.5))
        stack.kill("worker")
        stack.start("worker")
    check_transcripts(stack)


@pytest.mark.thorough
@pytest.mark.timeout(180)
def test_redis_is_killed_and_emptied(stack: Stack) -> None:
    chance = random.Random(815)
    for name in CREW:
        assert stack.send(name, f"TOKENS {WORDS} {RATE}").status_code == 200
    for _ in range(5):
        pause(chance.uniform(0.1, 1.5))
        stack.kill("redis")
        pause(chance.uniform(0.0, 0.5))
        # Messages are accepted without Redis.
        assert stack.send(CREW[0], "during the outage").status_code == 200
        stack.start("redis")
    for name in CREW[1:]:
        stack.wait_idle(name)
        assert [text.strip() for text in stack.texts(name)] == [number_story()]
    stack.wait_idle(CREW[0])
    assert stack.texts(CREW[0], "user").count("during the outage") == 5
    until(lambda: stack.health()["worker"]["ok"], 60)


@pytest.mark.rotated
@pytest.mark.timeout(180)
def test_edge_and_web_are_killed_while_messages_are_posted(stack: Stack) -> None:
    chance = random.Random(99)
    sent: list[str] = []
    unsure: list[str] = []
    running = True

    def post() -> None:
        number = 0
        while running:
            number += 1
            text = f"note {number}"
            try:
                answer = stack.send(CREW[number % len(CREW)], text)
            except httpx.HTTPError:
                unsure.append(text)
                continue
            if answer.status_code == 200:
                assert answer.json()["sent"] is True
                sent.append(text)
            else:
                assert answer.status_code in (502, 504), answer.text
                unsure.append(text)

    with ThreadPoolExecutor(1) as pool:
        posting = pool.submit(post)
        for round_ in range(4):
            pause(chance.uniform(0.3, 1.5))
            name = "edge" if round_ % 2 else "web"
            stack.kill(name)
            pause(chance.uniform(0.0, 0.3))
            stack.start(name)
            until(stack.is_responding, 30)
        running = False
        posting.result(60)

    assert len(sent) > 20
    for name in CREW:
        stack.wait_idle(name)
    heard = [text for name in CREW for text in stack.texts(name, "user")]
    assert not set(sent) - set(heard)
    assert len(heard) == len(set(heard))
    assert set(heard) <= {*sent, *unsure}


@pytest.mark.thorough
@pytest.mark.timeout(180)
def test_full_restart_during_work_loses_nothing(stack: Stack) -> None:
    for name in CREW:
        assert stack.send(name, f"TOKENS {WORDS} {RATE}").status_code == 200
    until(lambda: "w5" in stack.get(CREW[-1])["lastOutput"])
    for name in ("beat", "worker", "edge", "web", "redis"):
        stack.end(name)
    pause(2)
    for name in ("redis", "web", "edge", "worker", "beat"):
        stack.start(name)
    until(stack.is_responding, 30)
    check_transcripts(stack)
