"""Rows for tests of pages, as services and the follower write them."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Any

from django.conf import settings
from django.test import Client
from django.utils import timezone

from lieutenants.models import Answer, Chunk, Entry, Lieutenant, Process, Usage
from lieutenants.states import Status
from lieutenants.usage import sums


def enlist(name: str = "ada", status: str = Status.IDLE, **fields: Any) -> Lieutenant:
    return Lieutenant.objects.create(
        name=name, status=status, **{"role": "tests", "host": settings.HOST, **fields}
    )


def process_of(lieutenant: Lieutenant, **fields: Any) -> Process:
    return Process.objects.create(
        lieutenant=lieutenant,
        host=settings.HOST,
        transport="local",
        directory="/nowhere",
        agent="/opt/pi (0.87.1)",
        handle={"agent_pid": 4321, "keeper_pid": 4320},
        **fields,
    )


class Told:
    """A transcript that is written row by row, as by the follower."""

    def __init__(self, lieutenant: Lieutenant) -> None:
        self.lieutenant = lieutenant
        self.process = process_of(lieutenant)
        self.answer: Answer | None = None

    def rev(self) -> int:
        self.lieutenant.rev += 1
        self.lieutenant.save(update_fields=["rev"])
        return self.lieutenant.rev

    def entry(self, kind: str, text: str = "", **fields: Any) -> Entry:
        return Entry.objects.create(
            lieutenant=self.lieutenant,
            process=self.process,
            answer=self.answer,
            kind=kind,
            text=text,
            rev=self.rev(),
            at=timezone.now(),
            **fields,
        )

    def chunk(self, entry: Entry, text: str) -> None:
        Chunk.objects.create(lieutenant=self.lieutenant, entry=entry, rev=self.rev(), text=text)

    def call(self, call_id: str, **arguments: Any) -> Entry:
        data = {"arguments": arguments}
        return self.entry("tool_call", tool="bash", call_id=call_id, data=data)

    def result(self, call_id: str, text: str, **fields: Any) -> Entry:
        return self.entry("tool_result", text, tool="bash", call_id=call_id, **fields)

    def open_answer(self) -> Answer:
        now = timezone.now()
        self.answer = Answer.objects.create(
            lieutenant=self.lieutenant, process=self.process, started_at=now
        )
        return self.answer


def use(lieutenant: Lieutenant, **fields: Any) -> Usage:
    now = timezone.now()
    if day := fields.get("day"):
        now = fields.get("at") or now.replace(year=day.year, month=day.month, day=day.day)
    usual = {"input": 1200, "output": 34, "cost": Decimal("0.0123"), "day": now.date()}
    row = Usage.objects.create(**{"lieutenant": lieutenant, "at": now, **usual, **fields})
    sums.add([row])
    return row


def page(client: Client, path: str, status: int = 200, **extra: Any) -> str:
    answer = client.get(path, **extra)
    assert answer.status_code == status, answer.content[:2000]
    return answer.content.decode()


def block(html: str, entry: Entry) -> str:
    """Return the part of a page that shows this entry."""
    found = re.search(rf'<article [^>]*id="e{entry.pk}".*?</article>', html, re.DOTALL)
    assert found, f"no block for entry {entry.pk}"
    return found[0]
