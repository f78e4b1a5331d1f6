"""Fixtures for tests of lists: a signed-in operator, and a queue in place of workers."""

from __future__ import annotations

from collections import deque
from typing import Any

import pytest
from django.test import Client

from reef_site.lists import runner
from tests.dispatching import intercept_tasks
from tests.fleets import database, pump
from tests.lieutenants.conftest import operator

__all__ = ["database", "operator", "pump"]


class Worker:
    """Runs dispatched actions on rows when it is told to."""

    def __init__(self) -> None:
        self.waiting: deque[str] = deque()

    def enqueue(self, _task: str, args: list[Any], _countdown: float) -> None:
        self.waiting.append(args[0])

    def work(self) -> None:
        while self.waiting:
            runner.advance(self.waiting.popleft())


@pytest.fixture
def worker(operator: Client, monkeypatch: pytest.MonkeyPatch) -> Worker:
    mine = Worker()
    intercept_tasks(monkeypatch, "lists.", mine.enqueue)
    return mine
