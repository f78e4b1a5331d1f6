"""Replay of recorded journals: each gives the rows that it gave when it was recorded.

`journals/` holds what the real agent (three versions), the stand-in of the tests, and the bridge to
agents of the dialect `acp` wrote, and `odd.jsonl`, written by hand, with reports that are damaged
or rare. The first line of a file maps the ids of messages to their text and mode. `golden.json`
holds the rows; after an intended change, write it anew with `WRITE_GOLDEN=1` and read the
difference.
"""

from __future__ import annotations

import json
import os
import random
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from django.db import models, transaction
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lieutenants.agents import DEFAULT
from lieutenants.models import (
    AgentModels,
    Answer,
    Chunk,
    Entry,
    Lieutenant,
    Message,
    Move,
    Process,
    Usage,
)
from lieutenants.sessions.session import STATE_QUERY
from lieutenants.states import MessageState, Mode
from tests.lieutenants.test_session import Played

pytestmark = pytest.mark.django_db

FOLDER = Path(__file__).parent / "journals"
GOLDEN = FOLDER / "golden.json"
NAMES = sorted(path.stem for path in FOLDER.glob("*.jsonl"))
# Longer than every wait of a session.
LONG = 30.0
Records = list[list[Any]]
# Columns that a session writes, of the rows that were there before.
_WRITTEN: dict[str, tuple[str, ...]] = {
    "lieutenant": (
        *("status", "error", "trouble", "waiting_for", "model_in_use", "model_problem"),
        *("task_count", "restarts"),
    ),
    "process": ("ended_at", "exit_code", "exit_signal", "stderr", "end_reason", "stop_asked_at"),
}

# Columns with the time of the replay, or with ids and revisions that depend on the passes.
_VARYING = frozenset(
    {
        *("id", "rev", "host", "data_folder", "state", "offset", "started_at", "directory"),
        *("created_at", "updated_at", "last_activity_at", "status_changed_at", "ready_at"),
        *("waiting_since", "failures", "failing_since", "restart_at", "session_name", "place"),
    }
)


class Replayed(Played):
    """A lieutenant whose journal was recorded."""

    def __init__(self, name: str) -> None:
        lines = (FOLDER / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
        (_, messages), *self.records = map(json.loads, lines)
        self.times = {record[1] for record in self.records if isinstance(record[1], int)}
        super().__init__(ready=False, agent="acp" if name.startswith("acp-") else DEFAULT)
        self.commands: list[str] = []
        for pk, (text, mode) in messages.items():
            Message.objects.create(
                pk=pk, lieutenant=self.lieutenant, text=text, mode=mode, mode_asked=Mode.PROMPT
            )

    def step(self, records: Records, *, replaced: bool = False) -> None:
        """Run one pass, by a new follower if `replaced`, and collect the commands."""
        if replaced:
            self.session = self.reopened()
        self.play(*records)
        for command in self.session.outgoing:
            if not command.id.startswith(STATE_QUERY):
                self.commands.append(json.dumps(command.line))
        self.session.outgoing.clear()

    def settle(self) -> None:
        """Let time pass, as it did before each message and at the end."""
        for _ in range(4):
            self.clock += LONG
            self.step([])

    def replay(self, chance: random.Random | None = None) -> dict[str, Any]:
        """Replay everything: in as few passes as possible, or in random ones."""
        for part in _parts(self.records):
            self.settle()
            while part:
                size = chance.randint(1, 6) if chance else len(part)
                replaced = chance is not None and chance.random() < 0.5
                self.step(part[:size], replaced=replaced)
                part = part[size:]
        self.settle()
        return self.rows()

    def rows(self) -> dict[str, Any]:
        """Return everything that the journal left in the database, in comparable form."""
        sets: dict[str, models.QuerySet[Any]] = {
            "entries": Entry.objects.order_by("pk"),
            "answers": Answer.objects.order_by("pk"),
            "usage": Usage.objects.order_by("pk"),
            "messages": Message.objects.order_by("pk"),
            "moves": Move.objects.order_by("pk"),
            "models": AgentModels.objects.order_by("pk"),
            "lieutenant": Lieutenant.objects.order_by("pk"),
            "process": Process.objects.order_by("pk"),
        }
        rows = {name: [self._row(each) for each in rows] for name, rows in sets.items()}
        for name, columns in _WRITTEN.items():
            rows[name] = [{key: row[key] for key in columns if key in row} for row in rows[name]]
        series = dict(Lieutenant.objects.get().failures)
        for name in ("entry", "notice"):
            series[name] = _position(Entry, series.get(name))
        if "since" in series:
            series["since"] = self._time(datetime.fromisoformat(series["since"]))
        text = {**rows, "failures": series, "open": Chunk.objects.count()}
        found: dict[str, Any] = json.loads(json.dumps({**text, "commands": self.commands}))
        return found

    def _row(self, row: models.Model) -> dict[str, Any]:
        values = {}
        for column in row._meta.concrete_fields:
            value = getattr(row, column.attname)
            if column.attname in _VARYING or value in (None, "", {}, []):
                continue
            if column.attname in ("answer_id", "entry_id"):
                value = _position(Answer if column.attname == "answer_id" else Entry, value)
            elif column.is_relation and column.attname != "message_id":
                continue
            elif isinstance(value, datetime):
                value = self._time(value)
            values[column.attname] = value if isinstance(value, bool | int | dict) else str(value)
        return values

    def _time(self, value: datetime) -> str:
        """Return the time of a record; other times are those of the replay."""
        milliseconds = round(value.timestamp() * 1000)
        if milliseconds in self.times:
            return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat()
        return "during the replay"


def _position(model: type[Answer | Entry], pk: int | None) -> int | None:
    """Return the position of a row among all of its kind."""
    return model.objects.filter(pk__lt=pk).count() if pk else None


def _parts(records: Records) -> list[Records]:
    """Split a journal where the follower had read everything before.

    That is where it delivered a message, and where the process ended.
    """
    parts: list[Records] = [[]]
    for record in records:
        if record[0] == "x" or (record[0] == "s" and not str(record[2]).startswith("~")):
            parts.append([])
        parts[-1].append(record)
    return parts


def golden() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(GOLDEN.read_text(encoding="utf-8"))
    return found


@pytest.mark.parametrize("name", NAMES)
def test_journal_gives_the_recorded_rows(name: str) -> None:
    rows = Replayed(name).replay()
    if os.environ.get("WRITE_GOLDEN"):
        known = {**(golden() if GOLDEN.exists() else {}), name: rows}
        text = json.dumps(known, indent=1, ensure_ascii=False, sort_keys=True)
        GOLDEN.write_text(f"{text}\n", encoding="utf-8")
    assert rows == golden()[name]
    undecided = Message.objects.filter(state=MessageState.DELIVERED)
    assert not undecided.exists()


def check_any_passes(name: str, chance: random.Random) -> None:
    """Replay in random passes, with sessions that are opened from their rows in between."""
    with transaction.atomic():
        assert Replayed(name).replay(chance) == golden()[name]
        transaction.set_rollback(True)


@pytest.mark.parametrize("name", NAMES)
def test_passes_and_new_followers_change_no_row(name: str) -> None:
    check_any_passes(name, random.Random(name))


# A failure is reduced to few passes. No examples are stored beside the checkout.
PROPERTY = settings(
    max_examples=12,
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@PROPERTY
@given(name=st.sampled_from(NAMES), chance=st.randoms(use_true_random=False))
def test_any_passes_and_followers_change_no_row(name: str, chance: random.Random) -> None:
    check_any_passes(name, chance)


@pytest.mark.thorough
@settings(PROPERTY, max_examples=1000)
@given(name=st.sampled_from(NAMES), chance=st.randoms(use_true_random=False))
def test_any_passes_and_followers_change_no_row_thorough(name: str, chance: random.Random) -> None:
    check_any_passes(name, chance)
