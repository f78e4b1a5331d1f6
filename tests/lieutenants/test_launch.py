"""Starts with a slow preparation, without a process."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from lieutenants.agents.pi import session_files
from lieutenants.exceptions import TransportError
from lieutenants.models import Lieutenant, Process
from lieutenants.states import Status
from lieutenants.supervision import runtime
from lieutenants.supervision.checks import lost_processes
from lieutenants.supervision.transports.base import Launch
from tests.conftest import STANDIN
from tests.lieutenants.rows import enlist

pytestmark = pytest.mark.django_db


class NoKeeper:
    """A transport that records how old a start is when it reaches the keeper."""

    def __init__(self) -> None:
        self.ages: list[timedelta] = []
        self.launches: list[Launch] = []

    def start(self, launch: Launch) -> Any:
        self.launches.append(launch)
        self.ages.append(timezone.now() - Process.objects.get().started_at)
        raise TransportError("there is none")

    def withdraw(self, _directory: str) -> None:
        return None


@pytest.fixture
def transport(settings: Any, monkeypatch: pytest.MonkeyPatch) -> NoKeeper:
    settings.PI_PATH = str(STANDIN)
    made = NoKeeper()
    monkeypatch.setattr(runtime, "transport_of", lambda _: made)
    return made


def starting(**fields: Any) -> Lieutenant:
    row = enlist(status=Status.STARTING, **fields)
    row.folder = runtime.default_workspace(row.pk)
    row.save(update_fields=["folder"])
    return row


def during_the_check(monkeypatch: pytest.MonkeyPatch, **fields: Any) -> None:
    """Change the row like this while the session file is being checked."""

    def check(*_: object) -> list[str]:
        Process.objects.update(**fields)
        return []

    monkeypatch.setattr(session_files, "check", check)


def test_slow_preparation_does_not_shorten_the_start_timeout(
    transport: NoKeeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    during_the_check(monkeypatch, started_at=timezone.now() - 2 * lost_processes.LOST_START_AFTER)

    runtime.launch(starting())

    (age,) = transport.ages
    assert age < timedelta(seconds=5)


@pytest.mark.parametrize(
    ("agent", "command", "warnings"),
    [("pi", [], ["Could not restore model"]), ("command", ["cat"], [])],
)
def test_keeper_is_told_which_warnings_of_its_agent_matter(
    transport: NoKeeper, agent: str, command: list[str], warnings: list[str]
) -> None:
    runtime.launch(starting(agent=agent, command=command))

    (launch,) = transport.launches
    assert launch.spec()["warnings"] == warnings


def test_abandoned_start_is_not_continued(
    transport: NoKeeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    during_the_check(monkeypatch, ended_at=timezone.now())

    runtime.launch(starting())

    assert transport.ages == []
    assert Lieutenant.objects.get().error == ""
