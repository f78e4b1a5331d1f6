"""Notes about limits that have passed, where the settings of a lieutenant only note that."""

from __future__ import annotations

from typing import Any

import pytest

from lieutenants.models import Entry, Lieutenant, Process
from lieutenants.sessions.session import Session
from lieutenants.states import LimitAction, Status
from lieutenants.supervision.checks.silence import SilenceLimits
from tests.lieutenants.test_turns import event, pools

__all__ = ["pools"]
pytestmark = pytest.mark.django_db
# Far behind the times of the pool's passes.
LATER = 10_000.0


def call(number: int) -> bytes:
    about = {"toolName": f"tool{number}", "args": {}}
    return event("tool_execution_start", toolCallId=f"c{number}", **about)


def answer_part() -> bytes:
    message = {"role": "assistant", "content": [{"type": "text", "text": "x"}]}
    return event("message_end", message={**message, "stopReason": "toolUse"})


class Watched:
    """A lieutenant in a pool, and the checks of its limits."""

    def __init__(self, pool: Any) -> None:
        self.pool = pool
        (self.journal,) = pool.journals
        limits = {"tool_limit_seconds": 1, "stall_limit_seconds": 1}
        Lieutenant.objects.update(status=Status.WORKING, limit_action=LimitAction.NOTE, **limits)
        self.restart()

    def restart(self) -> None:
        """Go on with what a new worker reads from the rows."""
        process = Process.objects.select_related("lieutenant").get()
        self.session = Session.open(process)
        self.pool.follower.sessions[process.pk] = self.session
        self.limits = SilenceLimits(lambda session, given: session.commit(given), self.fail)

    @staticmethod
    def fail(_session: Session, reason: str) -> None:
        raise AssertionError(reason)

    def write(self, records: bytes) -> None:
        self.journal.write(records)
        self.pool.make_pass()

    def notes(self) -> list[str]:
        """Check the limits, and return all notes so far."""
        for clock in (LATER, LATER + 1):
            self.limits.check(self.session, Lieutenant.objects.get(), clock, 0.0)
        found = Entry.objects.filter(kind=Entry.Kind.NOTICE).order_by("id")
        return [text.partition(" ran ")[0] for text in found.values_list("text", flat=True)]


@pytest.fixture
def watched(pools: Any) -> Watched:
    found = Watched(pools("ada"))
    found.write(event("agent_start"))
    return found


def test_each_call_past_its_limit_is_noted_once_also_by_a_new_worker(watched: Watched) -> None:
    watched.write(call(1))
    assert watched.notes() == ["Tool tool1"]
    watched.restart()
    assert watched.notes() == ["Tool tool1"]

    watched.write(call(2))
    assert watched.notes() == ["Tool tool1", "Tool tool2"]
    watched.restart()
    assert watched.notes() == ["Tool tool1", "Tool tool2"]

    watched.write(event("tool_execution_end", toolCallId="c1", toolName="tool1", result={}))
    assert watched.notes() == ["Tool tool1", "Tool tool2"]
    assert len(Process.objects.get().state["noted_calls"]) == 2


def test_silence_of_a_model_is_noted_once_in_each_call(watched: Watched) -> None:
    (first,) = watched.notes()
    assert "while waiting for the model. Its settings only note that." in first
    watched.restart()
    assert watched.notes() == [first]

    # It says something, and is silent again in the same call.
    watched.write(b'["t",0,"word"]\n')
    assert watched.notes() == [first]
    watched.write(answer_part())
    assert len(watched.notes()) == 2
    watched.restart()
    assert len(watched.notes()) == 2
