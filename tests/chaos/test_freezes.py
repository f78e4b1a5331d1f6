"""Parts of reef freeze for a while, or the machine reboots: nothing is lost or duplicated.

Statuses are sampled meanwhile: a working lieutenant must never have another status.
"""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from tests.chaos.test_upgrade import is_alive
from tests.stack import Stack, pause
from tests.waiting import until

LIEUTENANTS = "/lieutenant/lieutenants"
PUBLIC = ("web", "edge")
CREW = ("ada", "bob", "cleo")
WORDS, RATE = 200, 40
STORY = " ".join(f"w{number}" for number in range(WORDS))


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with Stack(tmp_path_factory.mktemp("freeze")) as running:
        for name in CREW:
            running.create(name)
        yield running


class Sampler(threading.Thread):
    """Polls the statuses of all lieutenants."""

    def __init__(self, stack: Stack) -> None:
        super().__init__(daemon=True)
        self.client = httpx.Client(
            base_url=stack.client.base_url, headers=stack.client.headers, timeout=20
        )
        self.done = threading.Event()
        self.seen: dict[str, list[str]] = {name: [] for name in CREW}

    def run(self) -> None:
        while not self.done.wait(0.1):
            try:
                answer = self.client.get(f"{LIEUTENANTS}")
            except httpx.HTTPError:
                continue
            if answer.status_code == 200:
                for each in answer.json()["lieutenants"]:
                    self.seen[each["name"]].append(each["status"])


@contextmanager
def sampling(stack: Stack) -> Iterator[Sampler]:
    sampler = Sampler(stack)
    sampler.start()
    try:
        yield sampler
    finally:
        sampler.done.set()
        sampler.join(30)
        sampler.client.close()


@contextmanager
def stopped(stack: Stack, name: str) -> Iterator[None]:
    """Freeze a part and its children."""
    group = stack.processes[name].pid
    os.killpg(group, signal.SIGSTOP)
    try:
        yield
    finally:
        os.killpg(group, signal.SIGCONT)


@pytest.mark.rotated
@pytest.mark.timeout(240)
@pytest.mark.parametrize("seconds", [2.0, pytest.param(25.0, marks=pytest.mark.thorough)])
@pytest.mark.parametrize(
    "part",
    ["redis", "worker", *(pytest.param(each, marks=pytest.mark.thorough) for each in PUBLIC)],
)
def test_frozen_processes_lose_no_work(stack: Stack, part: str, seconds: float) -> None:
    before = {name: len(stack.texts(name)) for name in CREW}
    for name in CREW:
        stack.send(name, f"TOKENS {WORDS} {RATE}").raise_for_status()
    until(lambda: all(stack.get(name)["status"] == "working" for name in CREW))

    with sampling(stack) as sampler:
        with stopped(stack, part):
            if part in ("redis", "worker"):
                note = stack.send("ada", f"note {part}", **{"Idempotency-Key": f"{part} {seconds}"})
                assert note.status_code == 200, note.text
            pause(seconds)
        until(lambda: all("w150" in stack.get(name)["lastOutput"] for name in CREW), 60)

    for name in CREW:
        stack.wait_idle(name)
        told = [text.strip() for text in stack.texts(name)[before[name] :]]
        assert [text for text in told if text.startswith("w")] == [STORY], name
        sent = stack.client.get(f"{LIEUTENANTS}/{name}/messages").json()["messages"]
        assert {each["state"] for each in sent} == {"accepted"}
        assert set(sampler.seen[name]) <= {"working"}, (part, sampler.seen)
    if part in ("redis", "worker"):
        until(lambda: stack.texts("ada", "user").count(f"note {part}") >= 1)
    until(lambda: stack.client.get("/health").json()["status"] == "ok", 60)


def pids(stack: Stack) -> list[int]:
    """Return the pids of running shims and agents."""
    found = []
    for path in stack.data.glob("lieutenants/*/runs/*/keeper.json"):
        facts: dict[str, Any] = json.loads(path.read_text())
        found += [facts["keeper_pid"], facts["agent_pid"]]
    return found


@pytest.mark.rotated
@pytest.mark.timeout(240)
def test_running_lieutenants_are_restarted_after_a_reboot(stack: Stack) -> None:
    for name in CREW:
        stack.send(name, f"TOKENS {WORDS} {RATE}").raise_for_status()
    until(lambda: "w5" in stack.get("cleo")["lastOutput"].rpartition("w0 ")[2])
    gone = pids(stack)
    for name in ("beat", "worker", "edge", "web", "redis"):
        stack.kill(name)
    for pid in gone:
        if is_alive(pid):
            os.kill(pid, signal.SIGKILL)
    until(lambda: not any(map(is_alive, gone)))

    for name in ("redis", "web", "edge"):
        stack.start(name)
    until(stack.is_responding, 60)
    # The worker is still frozen; messages are stored.
    kept = stack.client.post(f"{LIEUTENANTS}/ada/send", json={"message": "kept"})
    with sampling(stack) as sampler:
        for name in ("worker", "beat"):
            stack.start(name)
        until(lambda: all(stack.get(name)["status"] == "idle" for name in CREW), 120)
    for name, seen in sampler.seen.items():
        # Running lieutenants are restarted; none is idle before it has a new agent.
        assert seen[0] == "working", (name, seen)
        before = seen[: seen.index("starting")] if "starting" in seen else []
        assert "idle" not in before, (name, seen)
        assert any("ended while reef was away" in text for text in stack.texts(name, "error"))
    assert all(map(is_alive, pids(stack)))
    assert stack.texts("ada", "user").count("kept") == (kept.status_code == 200)
    for name in CREW:
        stack.send(name, "once more").raise_for_status()
        until(lambda: stack.texts(name)[-1] == "echo: once more")  # noqa: B023
        assert all(entry["final"] for entry in stack.transcript(name))
