"""A lieutenant with a long transcript, for tests and measurements of its page."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django.conf import settings
from django.utils import timezone

from lieutenants.models import Answer, Entry, Lieutenant, Process
from lieutenants.states import Outcome, Status

KINDS = ("user", "thinking", "tool_call", "tool_result", "tool_call", "tool_result", "text")
NEEDLE = "needle-4711"
LONG = 10_000_000


def plant(entries: int, *, name: str = "long", every: int = 997) -> Lieutenant:
    """Make a paused lieutenant with turns of seven entries; each `every`th has the needle."""
    row = Lieutenant.objects.create(
        name=name,
        role="has worked for months",
        status=Status.PAUSED,
        host=settings.HOST,
        data_folder=settings.DATA_FOLDER_ID,
        rev=entries,
    )
    process = Process.objects.create(
        lieutenant=row,
        host=settings.HOST,
        transport="local",
        directory="/nowhere",
        ended_at=timezone.now(),
    )
    turns = entries // len(KINDS) + 1
    begin = timezone.now() - timedelta(minutes=turns)
    Answer.objects.bulk_create(
        [
            Answer(
                lieutenant=row,
                process=process,
                started_at=begin + timedelta(minutes=turn),
                ended_at=begin + timedelta(minutes=turn, seconds=40),
                outcome=Outcome.COMPLETED,
                text=f"answer {turn}",
            )
            for turn in range(turns)
        ],
        500,
    )
    answers = list(row.answers.order_by("id"))
    rows = [
        _entry(number, every, lieutenant=row, process=process, answer=answers[number // len(KINDS)])
        for number in range(entries)
    ]
    Entry.objects.bulk_create(rows, 500)
    return row


def _entry(number: int, every: int, **fields: Any) -> Entry:
    turn, place = divmod(number, len(KINDS))
    kind = KINDS[place]
    words = f"{kind} of turn {turn}. " + "Some **words** about `code` and its tests. " * 6
    if number % every == 0:
        words += NEEDLE
    if kind == "text":
        words += f"\n\n```python\nprint({turn})\n```\n"
    if kind in ("tool_call", "tool_result"):
        fields |= {"call_id": f"c{turn}-{place - place % 2}", "tool": "bash"}
    if kind == "tool_call":
        fields["data"] = {"arguments": {"command": f"pytest -q part_{turn}"}}
        words = ""
    return Entry(kind=kind, text=words, rev=number + 1, at=fields["answer"].started_at, **fields)


def plant_long_answer(row: Lieutenant, length: int = LONG) -> Entry:
    """Add an answer of so many characters, whose lines are numbered."""
    line = "{:07} A line of a very long answer, with **words** and `code` in it.\n"
    count = length // len(line.format(0))
    text = "".join(line.format(number) for number in range(count))
    process = row.processes.get()
    answer = Answer.objects.create(
        lieutenant=row,
        process=process,
        started_at=timezone.now(),
        ended_at=timezone.now(),
        outcome=Outcome.COMPLETED,
        text=text,
    )
    return Entry.objects.create(
        lieutenant=row,
        process=process,
        answer=answer,
        kind=Entry.Kind.TEXT,
        text=text,
        rev=row.rev,
        at=timezone.now(),
    )
