"""VMs of paused lieutenants: paused once, also if the worker dies in between, and kept so."""

from __future__ import annotations

import time
from collections.abc import Callable
from importlib import import_module
from types import SimpleNamespace
from typing import Any

import pytest
from django.apps import apps
from django.conf import settings
from django.utils import timezone

from bootloader.exceptions import OutcomeUnknown, ProviderRefused, ProviderUnavailable
from bootloader.inventory import machines
from bootloader.providers.base import MachineState
from lieutenants.exceptions import TransportError
from lieutenants.hosts import sharing
from lieutenants.models import Lieutenant, Process
from lieutenants.supervision import machine_locks, remote_pause, remote_reach, remote_work, runtime
from lieutenants.supervision.discovery import following
from lieutenants.supervision.discovery.following import FoundRun
from lieutenants.supervision.transports import ssh_transport_of
from lieutenants.supervision.transports.ssh.transport import SshTransport
from reef_site.common.errors import LostRace
from tests.dispatching import drop_tasks
from tests.lieutenants.remote import rows
from tests.vmtree.conftest import database

__all__ = ["database"]

pytestmark = pytest.mark.django_db


class Killed(BaseException):
    """The worker dies."""


class Calls:
    """Records the operations at the provider, each of which raises what is set."""

    def __init__(self) -> None:
        self.made: list[str] = []
        self.state = MachineState.RUNNING
        self.trouble: BaseException | None = None
        self.refusal: BaseException | None = None
        self.meanwhile: Callable[[], object] = lambda: None

    def __call__(self) -> Calls:
        return self

    def pause(self, vm_id: str, _by: str) -> None:
        self.made.append(f"pause {vm_id}")
        self.meanwhile()
        if self.trouble:
            raise self.trouble
        self.state = MachineState.PAUSED

    def resume(self, vm_id: str, _by: str) -> None:
        self.made.append(f"resume {vm_id}")
        if self.refusal:
            raise self.refusal
        self.state = MachineState.RUNNING


@pytest.fixture
def provider(monkeypatch: pytest.MonkeyPatch) -> Calls:
    calls = Calls()
    drop_tasks(monkeypatch, "")
    monkeypatch.setattr(remote_pause, "ProviderHandler", calls)
    monkeypatch.setattr(remote_reach, "ProviderHandler", calls)
    monkeypatch.setattr(remote_work, "submit", lambda _key, work: work())
    monkeypatch.setattr(machines, "refresh", lambda _: SimpleNamespace(state=calls.state))
    rows.machine()
    return calls


def paused(**fields: Any) -> tuple[Lieutenant, Process]:
    row = rows.lieutenant(status="paused")
    process = rows.process(row, ready_at=timezone.now(), **fields)
    return rows.claim(row), process


def frozen(**fields: Any) -> tuple[Lieutenant, Process]:
    row = rows.lieutenant(status="paused")
    process = rows.process(row, is_frozen=True, ended_at=timezone.now(), **fields)
    return row, process


def test_worker_that_dies_before_the_vm_is_paused_is_made_up_for(provider: Calls) -> None:
    row, process = paused()
    provider.trouble = Killed()
    with pytest.raises(Killed):
        remote_pause.freeze(row, process)
    process.refresh_from_db()
    assert process.is_frozen
    assert process.vm_paused_at is None
    Lieutenant.objects.release_held(row.pk, row.leased_by)
    provider.trouble = None
    for _ in range(3):
        runtime.reconcile()
    assert provider.made == ["pause vm-1", "pause vm-1"], "once more, and not again"
    process.refresh_from_db()
    assert process.is_frozen
    assert process.vm_paused_at
    assert Lieutenant.objects.get().leased_by == ""


def test_vm_that_an_operator_has_resumed_is_left_alone(provider: Calls) -> None:
    frozen(vm_paused_at=timezone.now())
    runtime.reconcile()
    assert provider.made == []


def test_vm_that_was_paused_before_an_upgrade_is_not_paused_again(provider: Calls) -> None:
    _row, process = frozen()
    other = rows.process(rows.lieutenant("gone", status="error"), ended_at=timezone.now())
    import_module("lieutenants.migrations.0023_fences").mark_paused(apps, None)
    runtime.reconcile()
    assert provider.made == []
    process.refresh_from_db()
    other.refresh_from_db()
    assert (process.vm_paused_at, other.vm_paused_at) == (process.ended_at, None)


def test_agent_in_a_vm_that_others_need_ends_instead(provider: Calls) -> None:
    _row, process = frozen()
    rows.lieutenant("near")
    runtime._reconcile_machines()
    assert provider.made == []
    process.refresh_from_db()
    assert (process.is_frozen, process.ended_at, process.stop_asked_at) == (False, None, None)
    assert process.generation == 1


def test_vm_that_is_needed_is_resumed_though_the_worker_died_before_that(provider: Calls) -> None:
    row, process = paused()
    provider.meanwhile = lambda: rows.lieutenant("near")
    provider.refusal = Killed()
    with pytest.raises(Killed):
        remote_pause.freeze(row, process)
    assert provider.made == ["pause vm-1", "resume vm-1"]
    assert provider.state == "paused"
    Lieutenant.objects.release_held(row.pk, row.leased_by)
    provider.refusal = ProviderUnavailable("busy")
    runtime._reconcile_machines()
    process.refresh_from_db()
    assert process.is_frozen, "an agent in a paused VM could not end"
    provider.refusal = None
    runtime._reconcile_machines()
    assert provider.state == "running"
    process.refresh_from_db()
    assert (process.is_frozen, process.ended_at) == (False, None)


def test_agent_in_a_vm_that_is_being_paused_is_not_discovered(provider: Calls) -> None:
    row, process = frozen()
    found = FoundRun(row.pk, process.pk, "~/x", {"keeper_pid": 2}, "vm-1")
    with pytest.raises(LostRace, match="is being paused"):
        following.follow(row, found)
    process.refresh_from_db()
    assert process.is_frozen
    Process.objects.update(vm_paused_at=timezone.now())
    following.follow(row, found)
    process.refresh_from_db()
    assert (process.is_frozen, process.ended_at) == (False, None)


def test_agent_in_a_vm_that_cannot_be_paused_ends_instead(provider: Calls) -> None:
    _row, process = frozen()
    provider.trouble = ProviderRefused("not this one")
    runtime._reconcile_machines()
    process.refresh_from_db()
    assert (process.is_frozen, process.ended_at) == (False, None)


def test_agent_whose_vm_the_provider_does_not_pause_is_stopped_at_once(
    provider: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    stops = []
    monkeypatch.setattr(SshTransport, "stop", lambda *_: stops.append(1))
    row, process = paused()
    Lieutenant.objects.release_held(row.pk, row.leased_by)
    provider.trouble = ProviderRefused("not this one")
    for _ in range(3):
        runtime.reconcile()
    process.refresh_from_db()
    assert (process.is_frozen, process.ended_at) == (False, None)
    assert process.stop_asked_at
    assert provider.made == ["pause vm-1"], "only the first time"
    assert len(stops) == 3


@pytest.mark.parametrize("trouble", [ProviderUnavailable("busy"), OutcomeUnknown("lost")])
def test_vm_that_may_be_paused_already_is_looked_at_again(
    provider: Calls, trouble: Exception
) -> None:
    _row, process = frozen()
    provider.trouble = trouble
    runtime._reconcile_machines()
    process.refresh_from_db()
    assert process.is_frozen, "an agent in a paused VM could not end"
    provider.trouble = None
    runtime._reconcile_machines()
    process.refresh_from_db()
    assert process.vm_paused_at


def test_vm_is_resumed_if_something_began_there_while_it_was_paused_again(
    provider: Calls,
) -> None:
    gone = rows.lieutenant("gone", status="destroyed")
    gone.moves.create(old="paused", new="destroyed", reason="", actor="tests")
    provider.meanwhile = lambda: rows.lieutenant("near", status="starting")
    remote_pause.pause_again(gone)
    assert provider.made == ["pause vm-1", "resume vm-1"]


def test_vm_is_not_paused_while_an_agent_is_being_ended_there(provider: Calls) -> None:
    _row, process = frozen()
    gone = rows.lieutenant("gone", status="destroyed", has_remote_files=True)
    rows.process(gone)
    runtime._reconcile_machines()
    assert provider.made == []
    process.refresh_from_db()
    assert process.is_frozen


def test_vm_is_paused_when_the_agents_of_others_have_ended_there(provider: Calls) -> None:
    gone = rows.lieutenant("gone", status="destroyed", has_remote_files=True)
    row, process = paused()
    assert remote_pause.freeze(row, process)
    assert provider.made == []
    Lieutenant.objects.filter(pk=gone.pk).update(has_remote_files=False)
    Lieutenant.objects.release_held(row.pk, row.leased_by)
    runtime._reconcile_machines()
    assert provider.made == ["pause vm-1"]


def test_agent_ends_if_what_others_have_left_is_not_removed_in_time(
    provider: Calls, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object, **_options: object) -> None:
        raise TransportError("an agent still runs in ~/x")

    monkeypatch.setattr(SshTransport, "remove", refuse)
    monkeypatch.setattr(SshTransport, "stop", lambda *_: None)
    rows.lieutenant("gone", status="destroyed", has_remote_files=True)
    _row, process = frozen()
    runtime.reconcile()
    process.refresh_from_db()
    assert process.is_frozen
    Process.objects.update(ended_at=timezone.now() - remote_pause.CLEANING_LIMIT)
    for _ in range(3):
        runtime.reconcile()
    process.refresh_from_db()
    assert (process.is_frozen, process.ended_at) == (False, None)
    assert process.stop_asked_at
    assert provider.made == []
    assert caplog.text.count("its VM stays awake") == 1


def test_vm_whose_agent_is_discovered_meanwhile_is_resumed(provider: Calls) -> None:
    row, process = paused()

    def reattach() -> None:
        Process.objects.update(is_frozen=False, ended_at=None)

    provider.meanwhile = reattach
    assert remote_pause.freeze(row, process)
    assert provider.made == ["pause vm-1", "resume vm-1"]


def test_vm_is_resumed_if_an_agent_of_others_is_discovered_while_it_is_paused(
    provider: Calls,
) -> None:
    other = rows.lieutenant("near", status="error")
    row, process = paused()
    Lieutenant.objects.release_held(row.pk, row.leased_by)

    def discover() -> None:
        run = rows.process(other, ended_at=timezone.now(), ready_at=timezone.now())
        found = FoundRun(other.pk, run.pk, "~/x", {"keeper_pid": 2}, "vm-1")
        following.follow(other, found)

    provider.meanwhile = discover
    runtime.reconcile()
    assert provider.made == ["pause vm-1", "resume vm-1"]
    provider.meanwhile = lambda: None
    runtime.reconcile()
    process.refresh_from_db()
    assert (process.is_frozen, process.ended_at) == (False, None), "its agent ends instead"
    assert len(provider.made) == 2


def test_start_sees_that_its_vm_is_about_to_be_paused(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    drop_tasks(monkeypatch, "")
    rows.machine()
    near = rows.lieutenant("near", status="starting")
    row = rows.lieutenant(status="paused")
    process = rows.process(row)
    seen = []

    def refresh(_machine: object) -> SimpleNamespace:
        seen.append(Process.objects.get(pk=process.pk).is_frozen)
        return SimpleNamespace(state=MachineState.RUNNING)

    def mark() -> None:
        machine_locks.lock("vm-1")
        ended = timezone.now()
        Process.objects.update(is_frozen=True, ended_at=ended, vm_paused_at=ended)

    monkeypatch.setattr(machines, "refresh", refresh)
    rows.at_once(mark, lambda: remote_reach.wake(ssh_transport_of(near)))
    assert seen == [True]


def test_others_that_begin_on_the_vm_keep_it_awake(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    drop_tasks(monkeypatch, "")
    rows.machine()
    row, process = paused()

    def create() -> None:
        machine_locks.lock("vm-1")
        rows.lieutenant("near")

    assert not rows.at_once(create, lambda: remote_pause.freeze(row, process))
    process.refresh_from_db()
    assert process.ended_at is None


def test_start_waits_while_its_vm_is_being_paused(
    provider: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    _row, process = frozen()
    near = rows.lieutenant("near", status="starting")
    waits: list[float] = []

    def paused_meanwhile(seconds: float) -> None:
        waits.append(seconds)
        Process.objects.filter(pk=process.pk).update(vm_paused_at=timezone.now())

    monkeypatch.setattr(time, "sleep", paused_meanwhile)
    monkeypatch.setattr(machines, "refresh", lambda _: SimpleNamespace(state=MachineState.PAUSED))
    assert remote_reach.wake(ssh_transport_of(near))
    assert len(waits) == 1
    assert provider.made == ["resume vm-1"]
    process.refresh_from_db()
    assert process.vm_paused_at is None, "it is to be paused again, or to end"


# -- takeovers -------------------------------------------------------------------------------


def test_frozen_process_goes_on_with_the_follower_that_took_it_over(provider: Calls) -> None:
    row, process = frozen(vm_paused_at=timezone.now())
    late = rows.claim(row)
    assert sharing.move([row.pk], row.data_folder, "other", force=True)
    process.refresh_from_db()
    assert (process.data_folder, process.generation) == ("other", 1)
    assert not remote_pause.thaw(late, process, stop=False), "it is the other's now"
    process.refresh_from_db()
    assert process.is_frozen

    assert sharing.move([row.pk], "other", settings.DATA_FOLDER_ID, force=True)
    assert remote_pause.thaw(rows.claim(row), process, stop=False)
    process.refresh_from_db()
    assert (process.is_frozen, process.ended_at) == (False, None)
    assert (process.data_folder, process.generation) == (settings.DATA_FOLDER_ID, 3)


def test_agent_is_taken_up_completely_or_not_at_all(
    provider: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    row, process = frozen(vm_paused_at=timezone.now())
    Lieutenant.objects.update(status="starting")
    row = rows.claim(row)

    def pause_meanwhile(*_: object) -> None:
        Lieutenant.objects.update(status="paused")

    monkeypatch.setattr(remote_pause, "reach", pause_meanwhile)
    monkeypatch.setattr(
        "lieutenants.supervision.transports.ssh.transport.SshTransport.list_runs",
        lambda _: [{"run": process.pk, "alive": True}],
    )
    remote_pause.take_up(row, process)
    process.refresh_from_db()
    assert process.is_frozen
    assert Lieutenant.objects.get().status == "paused"
