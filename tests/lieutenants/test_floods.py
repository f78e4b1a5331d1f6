"""Limits on rows of a noisy agent, their reports, and calls whose end is lost."""

from __future__ import annotations

import os
import re
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from django.utils import timezone

from lieutenants.models import Entry, Lieutenant, Message
from lieutenants.sessions import floods
from lieutenants.sessions.inputs import OmissionsDue
from lieutenants.sessions.write_batch import WriteBatch
from lieutenants.states import Status
from lieutenants.supervision import follower
from lieutenants.supervision.transports import get_transport
from tests.conftest import Fleet
from tests.lieutenants.test_session import Played
from tests.waiting import until

LONG_LINE = 10_500_000
MINUTE = timedelta(minutes=1)


def now_ms() -> int:
    return int(timezone.now().timestamp() * 1000)


def event(kind: str, **fields: Any) -> list[Any]:
    return ["e", now_ms(), {"type": kind, **fields}]


def left_out(rows: list[Entry]) -> int:
    """Return the number of omitted rows in the transcript's reports."""
    found = [re.match(r"([\d,]+) further ", row.text) for row in rows]
    return sum(int(each[1].replace(",", "")) for each in found if each)


def newest() -> Entry:
    return Entry.objects.order_by("-id")[0]


# -- rows of the follower --------------------------------------------------------------------


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        ("extension_error", {"extensionPath": "/x.ts", "error": "n"}),
        ("extension_ui_request", {"id": "1", "method": "notify", "message": "n"}),
        ("extension_ui_request", {"id": "1", "method": "confirm", "title": "Sure?"}),
        ("auto_retry_end", {"success": False, "finalError": "no"}),
        ("compaction_start", {"reason": "threshold"}),
        ("response", {"id": "unknown", "command": "prompt", "success": False, "error": "no"}),
    ],
    ids=["errors", "notifications", "dialogs", "retries", "compactions", "refusals"],
)
def test_rows_of_one_cause_are_limited_and_the_rest_is_counted(
    kind: str, fields: dict[str, Any]
) -> None:
    played = Played()
    before = Entry.objects.count()
    # All at one time, however long the test takes.
    record = event(kind, **fields)
    for _ in range(20):
        played.play(*[record] * 100)
        played.session = played.reopened()
    played.session.use(batch := WriteBatch())
    played.session.handle(OmissionsDue(), timezone.now() + MINUTE)
    batch.write()

    rows = list(Entry.objects.order_by("id")[before:])
    assert len(rows) <= floods.ROWS_PER_MINUTE + 20
    told = [row for row in rows if " further " in row.text]
    assert len(rows) - len(told) + left_out(told) == 2000


@pytest.mark.django_db
def test_flood_is_shown_as_trouble_until_it_is_over() -> None:
    played = Played()
    played.play(["m", now_ms(), "extension_error", 5000, 400_000])
    loud = played.row().trouble
    assert loud.startswith("Too much output: too many errors of extensions.")
    assert "5,000 further errors of extensions like this (0.4 MB)" in newest().text
    played.session = played.reopened()
    played.play(["m", now_ms(), "extension_error", 5000, 400_000])
    assert played.row().trouble == loud
    assert played.session.recorder.floods.loud == {"extension_error": 10_000}
    played.play(["q", now_ms(), "extension_error"])
    assert played.row().trouble == ""


@pytest.mark.django_db
def test_model_trouble_takes_precedence_over_floods() -> None:
    played = Played()
    played.play(["m", now_ms(), "notify", 5000, 1])
    retry = {"delayMs": 1000, "attempt": 1, "maxAttempts": 3, "errorMessage": "429"}
    played.play(event("auto_retry_start", **retry))
    assert played.row().trouble.startswith("429")
    played.play(event("auto_retry_end", success=True))
    assert played.row().trouble.startswith("Too much output: too many notifications.")


@pytest.mark.django_db
def test_very_long_notification_is_truncated() -> None:
    played = Played()
    text = "n" * 5_000_000
    played.play(event("extension_ui_request", id="1", method="notify", message=text))
    assert len(newest().text) < floods.MAX_TEXT + 100
    assert "4,980,000 characters left out" in newest().text


@pytest.mark.django_db
def test_omitted_rows_are_reported_when_the_process_ends() -> None:
    played = Played()
    errors = [event("extension_error", error="n") for _ in range(1000)]
    played.play(*errors, ["x", now_ms(), {"code": 0}])
    rows = Entry.objects.filter(text__contains=" further ")
    assert left_out(list(rows)) == 1000 - floods.ROWS_PER_MINUTE
    assert played.row().trouble == ""


# -- calls ---------------------------------------------------------------------------------------


CALL = {"toolCallId": "c1", "toolName": "shots"}


@pytest.mark.django_db
@pytest.mark.parametrize("kind", ["turn_end", "agent_end", "agent_settled"])
def test_call_without_end_event_ends_with_its_turn(kind: str) -> None:
    played = Played()
    played.play(event("agent_start"), event("tool_execution_start", **CALL))
    assert played.row().waiting_for == "tool shots"
    played.play(event(kind))
    assert "tool" not in played.row().waiting_for
    call = Entry.objects.get(kind=Entry.Kind.TOOL_RESULT)
    assert (call.final, call.text) == (True, "No result was reported.")


@pytest.mark.django_db
def test_too_long_result_is_shown_by_size() -> None:
    played = Played()
    played.play(event("agent_start"), event("tool_execution_start", **CALL))
    content = {"content": [{"type": "image"}]}
    played.play(event("tool_execution_end", **CALL, result=content, cut=10_500_312, images=3))
    call = Entry.objects.get(kind=Entry.Kind.TOOL_RESULT)
    assert call.text == "Result of 10.5 MB, 3 images, not kept."
    assert (call.final, call.data) == (True, {"images": 3})


@pytest.mark.django_db
def test_beginning_of_a_long_result_is_shown() -> None:
    played = Played()
    played.play(event("agent_start"), event("tool_execution_start", **CALL))
    content = [{"type": "text", "text": "first lines"}]
    message = {"role": "toolResult", **CALL, "content": content, "isError": True}
    played.play(event("message_end", message=message, cut=20_000_000))
    call = Entry.objects.get(kind=Entry.Kind.TOOL_RESULT)
    assert call.text == "first lines …\n\nResult of 20.0 MB, only its beginning is kept."
    assert (call.final, call.is_error) == (True, True)


# -- with real processes -------------------------------------------------------------------------


def test_flood_does_not_affect_others_or_messages(fleet: Fleet) -> None:
    fleet.create("loud", ready=False)
    fleet.create("calm")
    fleet.wait("loud", "idle")
    before = Entry.objects.count()
    fleet.send("loud", "FLOOD extension_error 60000 20000")
    assert fleet.ask("calm", "are you there?", 2.0) == "echo: are you there?"
    until(lambda: fleet.get("loud").get("trouble", "").startswith("Too much output: "))
    assert fleet.ask("loud", "hello", 30).endswith("echo: hello")

    assert Entry.objects.count() - before < 200


LONG = [
    *("tool", "tool_execution_end", "toolResult", "tool_execution_start", "assistant"),
    *("turn_end", "agent_end", "agent_settled", "response", "message_start"),
]


@pytest.mark.rotated
def test_long_line_of_any_kind_leaves_no_call_open(fleet: Fleet) -> None:
    fleet.create("ada", stallLimitSeconds=1)
    for number, what in enumerate(LONG, start=1):
        message = fleet.send("ada", f"LONG {what} {LONG_LINE}")
        until(partial(_is_done, message))
        assert fleet.get("ada").get("waitingFor", "") == "", what
        assert not Entry.objects.filter(final=False).exists(), what
        *_, result = Entry.objects.filter(kind=Entry.Kind.TOOL_RESULT)
        is_long = what in ("tool", "tool_execution_end")
        assert result.text == ("Result of 10.5 MB, 3 images, not kept." if is_long else "hi\n")
        assert Entry.objects.filter(kind=Entry.Kind.TOOL_RESULT).count() == number

    # The stall watch still works.
    fleet.send("ada", "SILENT")
    fleet.wait("ada", "idle")
    assert any("reef aborts this answer" in text for text in fleet.texts("ada", "notice"))


def _is_done(message: Message) -> bool:
    message.refresh_from_db()
    idle = Lieutenant.objects.get(pk=message.lieutenant_id).status == Status.IDLE
    return message.taken_up_at is not None and idle


def test_journal_of_a_running_agent_is_shortened(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follower, "KEPT_BYTES", 1 << 20)
    monkeypatch.setattr(follower, "SHORTEN_BYTES", 1 << 20)
    fleet.create("ada")
    journal = Path(fleet.process("ada").directory, "journal.jsonl")
    for _ in range(6):
        assert fleet.ask("ada", "PIECES 1000000 0 " + "x" * 1_000_000).startswith("xxx")
    assert journal.stat().st_size > 6_000_000
    if os.statvfs(journal.parent).f_blocks:
        until(lambda: journal.stat().st_blocks * 512 < 4_000_000)
    fleet.restart_follower()
    assert fleet.ask("ada", "hello") == "echo: hello"


def test_older_database_continues_after_the_gap(fleet: Fleet) -> None:
    fleet.create("ada")
    process = fleet.process("ada")
    begin = process.offset
    for number in range(3):
        fleet.ask("ada", f"PIECES 100000 0 {number}" + "x" * 100_000)
    fleet.stop_follower()
    process.refresh_from_db()
    get_transport("local").shorten(process.directory, process.offset)
    process.offset = begin // 4096 * 4096
    process.save(update_fields=["offset"])

    fleet.restart_follower()
    assert fleet.ask("ada", "hello") == "echo: hello"
    assert any("are lost" in text for text in fleet.texts("ada", "notice"))
