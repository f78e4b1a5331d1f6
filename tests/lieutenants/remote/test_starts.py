"""Starts on machines that are overtaken: by another follower, by a stop, or by their time limit."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.conf import settings
from django.utils import timezone

from lieutenants.exceptions import NotNow
from lieutenants.hosts import sharing
from lieutenants.models import Lieutenant, Process
from lieutenants.states import Status
from lieutenants.supervision import claims, made_vms, remote_reach, remote_start, runtime, starts
from lieutenants.supervision.remote_reach import Steps
from reef_site.common.errors import LostRace
from tests.dispatching import drop_tasks
from tests.lieutenants.remote import rows
from tests.vmtree.conftest import database
from tests.waiting import until

__all__ = ["database"]

HANDLE = {"keeper_pid": 7, "agent_pid": 8}


@pytest.fixture(autouse=True)
def _no_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    drop_tasks(monkeypatch, "")


def take_over(row: Lieutenant) -> bool:
    return sharing.move([row.pk], row.data_folder, "other", force=True)


def new_process(row: Lieutenant) -> Process:
    return Process(lieutenant=row, host=row.host, transport="ssh", agent="", directory="~/x")


# -- a takeover in the middle ----------------------------------------------------------------


def test_start_that_began_before_a_takeover_inserts_no_process(database: str) -> None:
    row = rows.claim(rows.lieutenant(status="starting"))
    late = new_process(row)
    assert not rows.at_once(lambda: take_over(row), lambda: starts.open_row(late, row))
    assert not Process.objects.exists()


def test_takeover_gets_the_process_of_a_start_that_came_first(database: str) -> None:
    row = rows.claim(rows.lieutenant(status="starting"))
    late = new_process(row)
    assert rows.at_once(lambda: starts.open_row(late, row), lambda: take_over(row))
    process = Process.objects.get()
    assert (process.data_folder, process.generation) == ("other", 1)


@pytest.mark.django_db
@pytest.mark.parametrize("change", [{"status": "paused"}, {"leased_by": "another worker"}])
def test_start_that_is_not_wanted_any_more_inserts_no_process(change: dict[str, str]) -> None:
    row = rows.claim(rows.lieutenant(status="starting"))
    Lieutenant.objects.update(**change)
    assert not starts.open_row(new_process(row), row)
    assert not Process.objects.exists()


@pytest.mark.django_db
def test_local_start_that_was_overtaken_inserts_no_process() -> None:
    row = rows.lieutenant(status="starting", transport="local", on_vm="", folder="/")
    row = rows.claim(row)
    Lieutenant.objects.update(data_folder="other", leased_by="")
    runtime.launch(row)
    assert not Process.objects.exists()


@pytest.mark.django_db
def test_late_start_changes_nothing_of_its_successor() -> None:
    row = rows.claim(rows.lieutenant(status="starting"))
    late = new_process(row)
    assert starts.open_row(late, row)
    assert take_over(row)
    assert not starts.renew_start(late, state={"lost": True})
    starts.start_failed(late, "it was frozen")
    starts.fail(row, "it was frozen")
    with pytest.raises(NotNow, match="given up"), Steps(late).step("ssh"):
        raise AssertionError("not to be reached")
    with pytest.raises(LostRace):
        row.move(Status.ERROR, reason="it was frozen")
    process = Process.objects.get()
    assert (process.ended_at, process.state, process.steps) == (None, {}, [])
    assert Lieutenant.objects.get().status == "starting"


@pytest.mark.django_db
def test_keeper_of_a_late_start_is_followed_by_the_successor() -> None:
    row = rows.claim(rows.lieutenant(status="starting"))
    late = new_process(row)
    assert starts.open_row(late, row)
    assert take_over(row)
    starts.adopt_keeper(late, HANDLE)
    process = Process.objects.get()
    assert (process.handle, process.data_folder, process.stop_asked_at) == (HANDLE, "other", None)


@pytest.mark.django_db
def test_keeper_of_a_start_that_was_given_up_is_followed_to_its_end() -> None:
    row = rows.claim(rows.lieutenant(status="starting"))
    late = new_process(row)
    assert starts.open_row(late, row)
    assert take_over(row)
    Process.objects.update(ended_at=timezone.now(), end_reason="Its start was cut off.")
    starts.adopt_keeper(late, HANDLE)
    process = Process.objects.get()
    assert process.ended_at is None
    assert process.stop_asked_at
    assert (process.handle, process.data_folder, process.generation) == (HANDLE, "other", 2)


@pytest.mark.django_db
def test_keeper_beside_another_process_is_not_reopened() -> None:
    row = rows.claim(rows.lieutenant(status="starting"))
    late = new_process(row)
    assert starts.open_row(late, row)
    Process.objects.update(ended_at=timezone.now())
    newer = rows.process(row)
    starts.adopt_keeper(late, HANDLE)
    assert Process.objects.live().get() == newer


@pytest.mark.django_db
def test_process_in_the_wrong_data_folder_is_repaired() -> None:
    row = rows.lieutenant()
    wrong = rows.process(row, data_folder="before")
    frozen = rows.process(
        rows.lieutenant("cold", status="paused"),
        data_folder="before",
        is_frozen=True,
        ended_at=timezone.now(),
    )
    elsewhere = rows.process(rows.lieutenant("other", "other"), data_folder="before")
    assert sharing.take_strays() == 2
    assert sharing.take_strays() == 0
    for process in (wrong, frozen):
        process.refresh_from_db()
        assert (process.data_folder, process.generation) == (settings.DATA_FOLDER_ID, 1)
    elsewhere.refresh_from_db()
    assert elsewhere.data_folder == "before"


# -- unexpected ends -------------------------------------------------------------------------


def _explode(*_: object, **__: object) -> Any:
    raise KeyError("nobody expects this")


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("module", "name"),
    [(remote_start, "reach"), (made_vms, "present_of"), (Lieutenant, "frozen_process")],
)
def test_unexpected_exception_ends_the_start_once(
    monkeypatch: pytest.MonkeyPatch, module: Any, name: str
) -> None:
    row = rows.claim(rows.lieutenant(status="starting"))
    monkeypatch.setattr(module, name, _explode)
    remote_start.launch(row)
    row.refresh_from_db()
    assert row.status == "error"
    assert row.error == "The start failed (KeyError); the worker's log has the details"
    assert not Process.objects.live().exists()
    assert not runtime._waiting().exists(), "it would be repeated for ever"


# -- time limits -----------------------------------------------------------------------------


@pytest.mark.django_db
def test_each_step_renews_the_time_limit_of_a_start(monkeypatch: pytest.MonkeyPatch) -> None:
    row = rows.lieutenant(status="starting")
    process = rows.process(row, handle={})
    steps = Steps(process)
    before = timezone.now()
    Process.objects.update(started_at=before - timedelta(seconds=80))
    with steps.step("vm"):
        assert Process.objects.get().started_at >= before
    monkeypatch.setattr(remote_reach, "MAX_START", timedelta(0))
    with pytest.raises(NotNow, match="took longer than 0 minutes"), steps.step("ssh"):
        raise AssertionError("not to be reached")
    assert Process.objects.get().steps[-1]["problem"] == "its start took longer than 0 minutes"


@pytest.mark.django_db
def test_start_of_a_stopped_lieutenant_ends_at_the_next_step() -> None:
    process = rows.process(rows.lieutenant(status="starting"), handle={})
    Lieutenant.objects.update(status="destroyed")
    with pytest.raises(NotNow, match="given up"), Steps(process).step("ssh"):
        raise AssertionError("not to be reached")


# -- the lease -------------------------------------------------------------------------------


def test_lease_is_renewed_while_the_work_on_a_machine_lasts(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claims, "LEASE", timedelta(seconds=1))
    row = rows.lieutenant()

    def until_when() -> Any:
        return Lieutenant.objects.get().leased_until

    with claims.claimed(row.pk) as mine:
        assert mine is not None
        first = until_when()
        until(lambda: until_when() > first)
        with claims.claimed(row.pk) as other:
            assert other is None
    assert (until_when(), Lieutenant.objects.get().leased_by) == (None, "")


@pytest.mark.django_db
def test_lease_that_was_taken_over_is_not_released() -> None:
    row = rows.lieutenant()
    with claims.claimed(row.pk) as mine:
        assert mine is not None
        assert take_over(mine)
        Lieutenant.objects.update(leased_by="successor")
    assert Lieutenant.objects.get().leased_by == "successor"


@pytest.mark.parametrize("busy", ["lease", "start"])
def test_machine_is_not_moved_if_work_begins_at_the_same_time(database: str, busy: str) -> None:
    row, second = rows.lieutenant(), rows.lieutenant("second")
    rows.folder("other", 1)

    def begin() -> None:
        if busy == "lease":
            rows.claim(row)
        else:
            Lieutenant.objects.filter(pk=row.pk).update(status="starting")

    def move() -> bool:
        return sharing.move([row.pk, second.pk], row.data_folder, "other")

    assert not rows.at_once(begin, move)
    assert set(Lieutenant.objects.values_list("data_folder", flat=True)) == {row.data_folder}
