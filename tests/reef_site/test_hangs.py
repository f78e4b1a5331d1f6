"""Hanging services delay nobody: a stopped Redis, a silent provider."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import httpx
import pytest

from reef_site.common import outside
from tests.stack import Stack
from tests.waiting import until

# Ten times the time that a request may wait for Redis, because other tests share this machine.
MAX_SECONDS = 1.5


class SilentServer:
    """Server that accepts connections and never responds."""

    def __init__(self) -> None:
        self._server = socket.create_server(("127.0.0.1", 0), backlog=50)
        self.url = f"http://127.0.0.1:{self._server.getsockname()[1]}"
        self._kept: list[socket.socket] = []
        threading.Thread(target=self._take, daemon=True).start()

    def _take(self) -> None:
        while True:
            try:
                self._kept.append(self._server.accept()[0])
            except OSError:
                return

    def close(self) -> None:
        self._server.close()
        for each in self._kept:
            each.close()


@pytest.fixture(scope="module")
def silent() -> Iterator[SilentServer]:
    server = SilentServer()
    yield server
    server.close()


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, silent: SilentServer) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("stack")
    with Stack(folder, VERS_BASE_URL=silent.url, VERS_API_KEY="a-key-of-the-tests") as running:
        yield running


def measure(ask: Any) -> tuple[float, httpx.Response]:
    began = time.monotonic()
    answer: httpx.Response = ask()
    return time.monotonic() - began, answer


@pytest.mark.rotated
def test_hanging_redis_does_not_delay_requests(stack: Stack) -> None:
    stack.create("ada")
    stack.create("bob")
    redis = stack.processes["redis"]
    os.kill(redis.pid, signal.SIGSTOP)
    try:
        with ThreadPoolExecutor(8) as pool:
            sends = [
                partial(stack.send, ("ada", "bob")[number % 2], f"number {number}")
                for number in range(16)
            ]
            took = list(pool.map(measure, sends))
        assert {answer.status_code for _, answer in took} == {200}
        assert max(seconds for seconds, _ in took) < MAX_SECONDS
        seconds, answer = measure(lambda: stack.client.get("/health"))
        assert seconds < MAX_SECONDS
        assert answer.json()["parts"]["broker"]["ok"] is False
        assert answer.json()["parts"]["broker"]["why"] == "Redis does not answer"
        # Rows are processed without Redis, too.
        stack.wait_idle("ada")
    finally:
        os.kill(redis.pid, signal.SIGCONT)
    until(lambda: stack.health()["broker"]["ok"], 20)
    for name, first in (("ada", 0), ("bob", 1)):
        stack.wait_idle(name)
        users = stack.texts(name, "user")
        assert sorted(users) == sorted(f"number {number}" for number in range(first, 16, 2))


@pytest.mark.rotated
def test_silent_provider_does_not_delay_pages(stack: Stack) -> None:
    paths = []
    for _ in range(3):
        seconds, answer = measure(lambda: stack.client.post("/vers-config/test/VERS_API_KEY"))
        assert seconds < MAX_SECONDS
        assert answer.status_code == 202
        assert answer.json()["state"] == "running"
        assert answer.headers["location"] == answer.json()["path"]
        paths.append(answer.json()["path"])
    for path in ("/health", "/lieutenant/lieutenants", "/vers-config/"):
        seconds, answer = measure(partial(stack.client.get, path))
        assert (answer.status_code, seconds < MAX_SECONDS) == (200, True)

    def is_over() -> bool:
        return all(stack.client.get(path).json()["state"] != "running" for path in paths)

    until(is_over, outside.LIMIT_SECONDS + outside.QUEUE_SECONDS + 5)
    told = stack.client.get(paths[0]).json()
    assert told.get("good") is None
    assert "no answer within 10 s" in told.get("error", told.get("text", ""))


@pytest.mark.rotated
def test_comparison_with_a_silent_provider_responds_at_once(stack: Stack) -> None:
    seconds, answer = measure(lambda: stack.client.post("/bootloader/reconcile"))

    assert (answer.status_code, seconds < MAX_SECONDS) == (202, True)
    assert stack.client.get(answer.json()["path"]).json()["state"] in ("running", "done")
    assert stack.client.get("/bootloader/calls/0123456789abcdef").status_code == 404
