"""The rules of retention: what is deleted or shortened when, in which batches."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from django.db.models import QuerySet
from django.utils import timezone

from bootloader.models import LogLine, ProvisionGrant, Provisioning
from bootloader.states import State
from lieutenants.models import Entry, Process, Usage
from lieutenants.transcript import old_data
from lieutenants.usage.models import UsageSlot
from reef_site.audit.models import Action, ActorKind, Record
from reef_site.common import retention
from reef_site.common.retention import Rule, retention_rules
from reef_site.storage import pruning
from tests.fleets import database
from tests.lieutenants.rows import Told, enlist, use
from vmtree.models import Node

__all__ = ["database"]
pytestmark = pytest.mark.usefixtures("database")
LONG = "x" * 10_000


def ago(days: float) -> Any:
    return timezone.now() - timedelta(days=days)


def records(count: int) -> None:
    now = timezone.now()
    Record.objects.bulk_create(
        Record(at=now, last_at=now, action=Action.CHANGE, actor="a", actor_kind=ActorKind.ACCOUNT)
        for _ in range(count)
    )


@pytest.fixture
def told() -> Told:
    return Told(enlist("ada"))


def end(process: Process, days: float, **fields: Any) -> None:
    Process.objects.filter(pk=process.pk).update(ended_at=ago(days), **fields)


# -- the tick ------------------------------------------------------------------------------------


def test_rule_that_fails_does_not_prevent_the_others(caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> int:
        raise ValueError("no idea")

    rules = {
        "tests-a": Rule("a", lambda: "never", prune=fail),
        "tests-b": Rule("b", lambda: "never", prune=lambda: 7),
        "tests-c": Rule("c", lambda: "never"),
    }
    with retention_rules.changed(rules):
        counts = pruning.prune()

    assert counts["tests-b"] == 7
    assert not {"tests-a", "tests-c"} & counts.keys()
    assert "the retention of tests-a failed" in caplog.text


def test_nothing_that_is_new_is_deleted(told: Told) -> None:
    records(3)
    told.call("1", command=LONG)
    use(told.lieutenant)

    counts = pruning.prune()

    assert set(counts.values()) == {0}
    assert {"audit log", "event log", "questions", "provisioning logs", "tool data"} <= set(counts)
    assert (Record.objects.count(), Entry.objects.count(), Usage.objects.count()) == (3, 1, 1)


# -- batches -------------------------------------------------------------------------------------


def batches(monkeypatch: pytest.MonkeyPatch, seconds_per_row: float, count: int) -> list[int]:
    """Delete rows with a clock that runs by the row; return the sizes of the batches."""
    clock, sizes = [0.0], []

    def delete(rows: QuerySet[Any]) -> None:
        sizes.append(rows.count())
        clock[0] += seconds_per_row * sizes[-1]
        rows.delete()

    records(count)
    monkeypatch.setattr(retention, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    assert retention.in_batches(Record.objects.order_by("pk"), delete) == sum(sizes)
    return sizes


@pytest.mark.parametrize("seconds", [0.00001, 0.0005])
def test_batches_are_as_large_as_some_milliseconds_allow(
    monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    sizes = batches(monkeypatch, seconds, 2500)

    assert sum(sizes) == 2500
    settled = sizes[3:-1]
    assert settled
    assert all(size * seconds <= 0.006 for size in settled)


def test_tick_ends_although_rows_are_left(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = batches(monkeypatch, 1.0, 400)

    assert sizes == [100]
    assert Record.objects.count() == 300


# -- lieutenants ---------------------------------------------------------------------------------


def test_long_data_of_old_tool_calls_is_shortened_and_texts_stay(told: Told, settings: Any) -> None:
    call = told.call("1", path="/etc/hosts", content=LONG)
    short = told.call("2", command="ls")
    result = told.result("1", LONG, data={"durationMs": 12, "details": {"diff": LONG}})
    text = told.entry("text", LONG, data={"failed": True})
    end(told.process, 181)

    assert pruning.prune()["tool data"] == 2

    assert set(Entry.objects.filter(kind="text").values_list("text", flat=True)) == {LONG}
    for entry in (call, short, result, text):
        entry.refresh_from_db()
    assert call.data["arguments"]["path"] == "/etc/hosts"
    assert call.data["arguments"]["content"] == (
        "x" * 200 + "… (9,800 more characters were deleted)"
    )
    assert short.data == {"arguments": {"command": "ls"}}
    assert result.text == LONG
    assert result.data["durationMs"] == 12
    assert len(result.data["details"]["diff"]) < 300
    assert Process.objects.get().is_data_short
    assert pruning.prune()["tool data"] == 0


@pytest.mark.parametrize(
    ("days", "ended", "fields"),
    [(180, 179, {}), (180, 400, {"is_frozen": True}), (0, 4000, {})],
    ids=["too young", "its journal may be read again", "no limit"],
)
def test_data_that_is_still_needed_stays(
    told: Told, settings: Any, days: int, ended: float, fields: dict[str, Any]
) -> None:
    settings.TOOL_DATA_DAYS = days
    call = told.call("1", content=LONG)
    end(told.process, ended, **fields)

    pruning.prune()

    call.refresh_from_db()
    assert call.data["arguments"]["content"] == LONG


def test_data_of_a_running_process_stays(told: Told) -> None:
    call = told.call("1", content=LONG)
    Process.objects.update(started_at=ago(4000))

    pruning.prune()

    call.refresh_from_db()
    assert call.data["arguments"]["content"] == LONG


def nested(depth: int) -> Any:
    return [nested(depth - 1) for _ in range(6)] if depth else "y" * 50


@pytest.mark.parametrize(
    "make",
    [
        lambda: {"arguments": {f"k{n}" * 500: LONG for n in range(500)}},
        lambda: {"arguments": [[LONG] * 50] * 50},
        lambda: {"arguments": "\U0001f600" * 9000},
        lambda: {"details": nested(5)},
    ],
)
def test_any_data_becomes_short(make: Callable[[], Any], told: Told) -> None:
    data = make()
    assert len(str(old_data.shortened(data))) < old_data.MAX_CHARS
    told.entry("tool_call", data=data)
    end(told.process, 200)

    assert pruning.prune()["tool data"] == 1
    assert Process.objects.get().is_data_short


def test_old_model_calls_are_deleted_only_if_that_is_set(told: Told, settings: Any) -> None:
    old, new = ago(400), timezone.now()
    for at in (old, new):
        use(told.lieutenant, at=at, day=at.date())
    pruning.prune()
    assert Usage.objects.count() == 2

    settings.USAGE_DAYS = 365
    assert pruning.prune()["usage"] == 1

    assert Usage.objects.get().day == new.date()
    assert UsageSlot.objects.count() == 2


def test_model_calls_of_the_day_on_which_a_budget_began_stay(told: Told, settings: Any) -> None:
    settings.USAGE_DAYS = 30
    begun = ago(60)
    for at in (begun, ago(50)):
        use(told.lieutenant, at=at, day=at.date())
    node = Node.objects.create(vm_id="ada", name="ada", category="lieutenant")
    ProvisionGrant.objects.create(node=node, vms=0, dollars=5, dollars_since=begun)
    pruning.prune()
    assert Usage.objects.get().day == begun.date()


# -- provisionings -------------------------------------------------------------------------------


def test_logs_of_old_provisionings_are_deleted() -> None:
    for name, days in {"old": 91, "new": 89}.items():
        row = Provisioning.objects.create(
            name=name, provider="vers", actor="tests", state=State.DONE, ended_at=ago(days)
        )
        LogLine.objects.create(provisioning=row, kind="note", text=name, at=ago(200))
    running = Provisioning.objects.create(name="r", provider="vers", actor="tests")
    LogLine.objects.create(provisioning=running, kind="note", text="running", at=ago(200))

    assert pruning.prune()["provisioning logs"] == 1

    assert set(LogLine.objects.values_list("text", flat=True)) == {"new", "running"}
    assert Provisioning.objects.count() == 3
