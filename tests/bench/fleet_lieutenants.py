"""Lieutenants of the fleet of `fleet_api`, each with a transcript of some length."""

from __future__ import annotations

from collections.abc import Sequence

TURNS, TEXT = 20, "The tests of the shop pass again. " * 20


def seed_lieutenants(vm_ids: Sequence[str]) -> None:
    """Create a paused lieutenant for each of these nodes, named like its VM.

    Each has 20 messages, answers and model calls, and 80 transcript entries.
    """
    from django.conf import settings
    from django.utils import timezone

    from lieutenants.models import Answer, Entry, Lieutenant, Message, Process, Usage

    now = timezone.now()
    rows = [
        Lieutenant(pk=pk, name=pk, role="bench", host=settings.HOST, folder="/", status="paused")
        for pk in vm_ids
    ]
    Lieutenant.objects.bulk_create(rows)
    processes = Process.objects.bulk_create(
        [
            Process(lieutenant=row, host=settings.HOST, transport="local", ended_at=now)
            for row in rows
        ]
    )
    for process in processes:
        of = {"lieutenant": process.lieutenant}
        sent = [
            Message(**of, text="Why?", mode="prompt", mode_asked="prompt", state="accepted")
            for _ in range(TURNS)
        ]
        Message.objects.bulk_create(sent)
        turns = Answer.objects.bulk_create(
            [
                Answer(
                    **of,
                    process=process,
                    message=message,
                    started_at=now,
                    ended_at=now,
                    outcome="completed",
                    text=TEXT,
                )
                for message in sent
            ]
        )
        entries = [
            Entry(
                **of, process=process, answer=turn, message=turn.message, rev=rev, at=now, **facts
            )
            for rev, turn in enumerate(turns)
            for facts in (
                {"kind": "user", "text": "Why?"},
                {"kind": "tool_call", "tool": "bash", "data": {"arguments": {"command": "ls"}}},
                {"kind": "tool_result", "tool": "bash", "text": TEXT},
                {"kind": "text", "text": TEXT},
            )
        ]
        Entry.objects.bulk_create(entries)
        Usage.objects.bulk_create(
            [
                Usage(
                    **of, message=turn.message, answer=turn, input=9, cost="0.01", at=now, day=now
                )
                for turn in turns
            ]
        )
