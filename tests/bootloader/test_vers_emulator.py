"""The provider against the emulator: every operation with real VMs, every error that there is."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from django.db import connections

from bootloader import exceptions as errors
from bootloader.providers.base import Machine, MachineState, Spec
from bootloader.providers.ssh.connect import connect_machine
from bootloader.providers.vers import Client, http, keyring
from bootloader.providers.vers.provider import NAME_LABEL, Vers
from tests.emulator.handle import Emulator
from tests.waiting import until

pytestmark = pytest.mark.django_db

vers = Vers()
SMALL = Spec(name="anna", vcpus=1, memory_mib=512, disk_mib=1024, labels={"team": "blue"})
NOTHING: frozenset[str] = frozenset()


@pytest.fixture(autouse=True)
def configured(
    emulator: Emulator, monkeypatch: pytest.MonkeyPatch, settings: Any, tmp_path: Path
) -> None:
    settings.DATA_DIR = tmp_path
    for name, value in emulator.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(http, "_FIRST_PAUSE", 0.02)
    monkeypatch.setattr("bootloader.providers.vers.provider._POLL_SECONDS", 0.02)


def create(spec: Spec = SMALL) -> Machine:
    """Create a VM that runs."""
    machine = vers.create(spec)
    until(lambda: vers.state(machine.id).state is MachineState.RUNNING)
    return machine


def run_command(machine_id: str, command: str) -> str:
    with connect_machine(vers, machine_id) as shell:
        ran = shell.run(command, timeout=20)
    assert ran.exit_status == 0, ran.errors
    return ran.output.decode().strip()


def ids(emulator: Emulator) -> set[str]:
    return {vm["vm_id"] for vm in emulator.vms()}


# -- operations ----------------------------------------------------------------------------------


def test_vm_goes_through_its_life_cycle(emulator: Emulator) -> None:
    emulator.set(boot_delay_s=0.3)
    machine = vers.create(SMALL)
    assert machine.state is MachineState.BOOTING
    assert vers.state(machine.id).state is MachineState.BOOTING
    until(lambda: vers.state(machine.id).state is MachineState.RUNNING)
    assert run_command(machine.id, "cat /etc/vm_id 2>/dev/null || echo $VM_ID") in (machine.id, "")

    (listed,) = vers.list()
    assert (listed.id, listed.name, listed.mine) == (machine.id, "anna", True)
    assert listed.labels == {"team": "blue", NAME_LABEL: "anna"}
    assert listed.created_at is not None

    vers.pause(machine.id)
    assert vers.state(machine.id).state is MachineState.PAUSED
    with pytest.raises(errors.ProviderRefused, match="is paused"):
        vers.login(machine.id, fresh=True)
    vers.resume(machine.id)
    assert run_command(machine.id, "echo again") == "again"

    vers.delete(machine.id)
    vers.delete(machine.id)
    assert vers.list() == []
    with pytest.raises(errors.NoSuchMachine):
        vers.state(machine.id)
    assert keyring.key_of(machine.id) is None


def test_commit_restore_and_branch_create_vms(emulator: Emulator) -> None:
    machine = create()
    with connect_machine(vers, machine.id) as shell:
        shell.put("kept.txt", b"before the commit\n", 0o600)
        shell.run("sync", timeout=10)
    commit = vers.commit(machine.id, "golden")
    assert vers.find_commits(machine.id, "golden") == [commit]
    assert vers.find_commits(machine.id, "other") == []

    restored = vers.create(Spec(name="bert", commit=commit, labels={"a": "b"}))
    assert restored.state is MachineState.RUNNING
    assert vers.state(restored.id).labels == {"a": "b", NAME_LABEL: "bert"}
    assert run_command(restored.id, "cat kept.txt") == "before the commit"
    assert vers.login(restored.id).private_key != vers.login(machine.id).private_key

    (copy,) = vers.branch(machine.id)
    assert copy.parent_id == machine.id
    assert run_command(copy.id, "cat kept.txt") == "before the commit"
    assert len({each.id for each in vers.branch(machine.id, 2)}) == 2
    assert len(ids(emulator)) == 5


def test_first_host_key_is_pinned(emulator: Emulator) -> None:
    machine = create()
    assert vers.login(machine.id).host_key is None
    connect_machine(vers, machine.id).close()
    kept = vers.login(machine.id).host_key
    assert kept
    assert kept.startswith("ssh-ed25519 ")
    assert vers.login(machine.id).tls_name == vers.address(machine.id)


def test_outdated_key_is_fetched_again(emulator: Emulator) -> None:
    one, two = create(), create(Spec(name="bert"))
    keyring.keep_key(one.id, vers.login(two.id).private_key)
    assert run_command(one.id, "echo in") == "in"


def test_unknown_fields_in_responses_are_ignored(emulator: Emulator) -> None:
    emulator.set(unknown_fields=True)
    machine = create()
    vers.commit(machine.id, "golden")
    assert [each.id for each in vers.list()] == [machine.id]
    assert vers.branch(machine.id)
    assert vers.check().good


def test_rejected_key_is_reported(emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    assert vers.check().good
    create()
    monkeypatch.setenv("VERS_API_KEY", emulator.create_key())
    assert vers.check().good
    for text in ("nonsense", str(uuid.uuid4()) + "0" * 64):
        monkeypatch.setenv("VERS_API_KEY", text)
        for how in ("gateway403", "401"):
            emulator.set(auth_failure=how)
            verdict = vers.check()
            assert not verdict.good
            assert "does not know our VERS_API_KEY" in verdict.text
            with pytest.raises(errors.BadProviderKey):
                vers.create(SMALL)


# -- errors --------------------------------------------------------------------------------------


def test_rejections_have_named_errors(emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    nobody = str(uuid.uuid4())
    with pytest.raises(errors.ProviderRefused, match="commit not found"):
        vers.create(Spec(name="x", commit=nobody))
    with pytest.raises(errors.ProviderRefused, match="tag not found"):
        vers.create(Spec(name="x", commit="no:tag"))
    with pytest.raises(errors.ProviderRefused, match="image not found"):
        vers.create(Spec(name="x", image="nowhere"))
    with pytest.raises(errors.ProviderRefused, match="422"):
        vers.create(Spec(name="x", vcpus=-1))
    for ask in (vers.state, vers.login, vers.pause, vers.resume, vers.branch):
        with pytest.raises(errors.NoSuchMachine):
            ask(nobody)
    with pytest.raises(errors.NoSuchMachine):
        vers.commit(nobody, "x")
    vers.delete(nobody)
    assert ids(emulator) == set()


def test_vm_of_another_organisation_is_not_changed(
    emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = create()
    monkeypatch.setenv("VERS_API_KEY", emulator.create_key(org="another"))
    assert vers.list() == []
    for ask in (vers.state, vers.login, vers.pause, vers.branch):
        with pytest.raises(errors.ProviderRefused, match=r"(?i)forbidden|not found"):
            ask(machine.id)
    assert ids(emulator) == {machine.id}


def test_exceeded_quota_is_reported(emulator: Emulator) -> None:
    emulator.set(quota_vcpus=1)
    machine = create()
    with pytest.raises(errors.QuotaExceeded, match="vCPU limit exceeded"):
        vers.create(SMALL)
    with pytest.raises(errors.QuotaExceeded):
        vers.branch(machine.id)
    emulator.set(quota_vcpus=8, quota_mib=512)
    with pytest.raises(errors.QuotaExceeded, match="Memory limit exceeded"):
        vers.create(SMALL)
    assert ids(emulator) == {machine.id}


def test_failed_boot_leaves_no_vm(emulator: Emulator) -> None:
    emulator.set(boot_delay_s=0.2, fail_boots=1)
    machine = vers.create(SMALL)

    def gone() -> bool:
        try:
            vers.state(machine.id)
        except errors.NoSuchMachine:
            return True
        return False

    until(gone)


def test_partial_branch_reports_the_created_vms(emulator: Emulator) -> None:
    machine = create()
    emulator.set(branch_fail_after=1)
    with pytest.raises(errors.PartiallyCreated) as caught:
        vers.branch(machine.id, 3)
    assert set(caught.value.made) == ids(emulator) - {machine.id}
    assert len(caught.value.made) == 1


def test_failed_commit_is_reported(emulator: Emulator) -> None:
    machine = create()
    emulator.set(commit_fail=True)
    with pytest.raises(errors.ProviderError) as caught:
        vers.commit(machine.id, "x")
    assert caught.value.http_status == 500
    assert vers.find_commits(machine.id, "x") == []


def test_rate_limited_requests_are_repeated(emulator: Emulator) -> None:
    emulator.fail("new_root", status=429, times=1)
    assert vers.create(SMALL).id in ids(emulator)
    assert len(ids(emulator)) == 1


def test_many_rate_limited_callers_all_succeed(emulator: Emulator) -> None:
    emulator.set(requests_per_second=4.0)
    made: list[str] = []
    delayed: list[errors.RateLimited] = []

    def ask(number: int) -> None:
        try:
            made.append(vers.create(Spec(name=f"m{number}", vcpus=1)).id)
        except errors.RateLimited as error:
            delayed.append(error)
        connections.close_all()

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    emulator.clear_faults()
    assert len(made) + len(delayed) == 8
    assert len(made) >= 4
    assert all(error.retry for error in delayed)
    assert set(made) == ids(emulator)
    assert [each for each in emulator.requests() if each["status"] == 429]


READS: list[Callable[[str], object]] = [
    lambda vm_id: vers.state(vm_id),
    lambda _: vers.list(),
    lambda vm_id: vers.login(vm_id, fresh=True),
    lambda vm_id: vers.find_commits(vm_id, "x"),
    lambda vm_id: Client().metadata(vm_id),
    lambda _: vers.check(),
]


@pytest.mark.parametrize("status", [429, 503])
def test_reads_survive_temporary_errors(emulator: Emulator, status: int) -> None:
    emulator.set(retry_after_s=0)
    machine = create()
    for read in READS:
        emulator.fail("*", status=status, times=2)
        read(machine.id)
    assert not [each for each in emulator.state_of_platform()["faults"] if each["times"] > 0]


def test_all_states_for_pausing_are_supported(emulator: Emulator) -> None:
    machine = create()
    for words in ("paused", "both"):
        emulator.set(state_write_enum=words)
        vers.pause(machine.id)
        assert vers.state(machine.id).state is MachineState.PAUSED
        vers.resume(machine.id)
    emulator.set(state_write_enum="sleeping")
    vers.pause(machine.id)
    assert vers.state(machine.id).state is MachineState.PAUSED
    assert emulator.vms()[0]["state"] == "sleeping"
    with pytest.raises(errors.ProviderError):
        vers.login(machine.id, fresh=True)


def test_paused_vm_is_resumed_before_deletion(emulator: Emulator) -> None:
    emulator.set(delete_paused=False)
    machine = create()
    vers.pause(machine.id)
    vers.delete(machine.id)
    assert ids(emulator) == set()


def test_dead_vm_is_reported_as_such(emulator: Emulator) -> None:
    machine = create()
    emulator.crash(machine.id)
    until(lambda: vers.state(machine.id).state is MachineState.STOPPED)
    with pytest.raises(errors.ProviderRefused, match="is dead"):
        connect_machine(vers, machine.id, 5)


# -- lost responses ------------------------------------------------------------------------------


@pytest.mark.parametrize("done", [True, False])
@pytest.mark.parametrize("labels_in_vm", [True, False])
def test_creation_with_a_lost_response_is_found(
    emulator: Emulator, done: bool, labels_in_vm: bool
) -> None:
    emulator.set(labels_in_vm=labels_in_vm)
    other = create(Spec(name="other"))
    began = datetime.now(UTC)
    emulator.fail("new_root", status=503, done=done)
    with pytest.raises(errors.OutcomeUnknown):
        vers.create(SMALL)

    def found() -> list[Machine]:
        return vers.find_created(SMALL, began, frozenset({other.id}))

    if done:
        (machine,) = until(found)
        assert {machine.id} == ids(emulator) - {other.id}
    else:
        assert found() == []


@pytest.mark.parametrize("done", [True, False])
@pytest.mark.parametrize("labels_in_vm", [True, False])
def test_restore_with_a_lost_response_is_found(
    emulator: Emulator, done: bool, labels_in_vm: bool
) -> None:
    emulator.set(labels_in_vm=labels_in_vm)
    machine = create()
    commit = vers.commit(machine.id, "golden")
    other = vers.create(Spec(name="other", commit=commit))
    began, spec = datetime.now(UTC), Spec(name="bert", commit=commit)
    emulator.fail("from_commit", status=503, done=done)
    with pytest.raises(errors.OutcomeUnknown):
        vers.create(spec)

    def found() -> list[Machine]:
        return vers.find_created(spec, began, frozenset({machine.id, other.id}))

    if done:
        (again,) = until(found)
        assert {again.id} == ids(emulator) - {machine.id, other.id}
    else:
        assert found() == []
    if labels_in_vm:
        known = frozenset({machine.id})
        assert other.id not in {each.id for each in vers.find_created(spec, began, known)}


def test_response_after_the_timeout_is_handled(
    emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    began = datetime.now(UTC)
    monkeypatch.setattr(http, "SLOW_SECONDS", 0.3)
    emulator.fail("new_root", status=503, done=True, after_s=1.0)
    with pytest.raises(errors.OutcomeUnknown, match="may have happened"):
        vers.create(SMALL)
    assert len(until(lambda: vers.find_created(SMALL, began, NOTHING))) == 1


def test_other_lost_responses_are_resolved(emulator: Emulator) -> None:
    machine = create()
    lost = {"status": 503, "done": True}
    emulator.fail("state", **lost)
    vers.pause(machine.id)
    assert vers.state(machine.id).state is MachineState.PAUSED
    emulator.fail("state", **lost)
    vers.resume(machine.id)

    emulator.fail("commit", **lost)
    with pytest.raises(errors.OutcomeUnknown):
        vers.commit(machine.id, "golden")
    assert len(until(lambda: vers.find_commits(machine.id, "golden"))) == 1

    emulator.fail("branch_by_vm", **lost)
    with pytest.raises(errors.OutcomeUnknown):
        vers.branch(machine.id)
    until(lambda: len(ids(emulator)) == 2)

    emulator.fail("delete", **lost)
    vers.delete(machine.id)
    assert machine.id not in ids(emulator)


def test_vm_missing_in_a_list_is_not_taken_for_deleted(emulator: Emulator) -> None:
    machine = create()
    emulator.set(list_gap=1, list_gap_vm=machine.id)
    assert vers.list() == []
    emulator.set(list_gap=1, list_gap_vm=machine.id)
    emulator.fail("delete", status=403, error="Forbidden")
    with pytest.raises(errors.ProviderRefused):
        vers.delete(machine.id)
    assert ids(emulator) == {machine.id}


# -- connections ---------------------------------------------------------------------------------


def test_aborted_connection_is_reported(emulator: Emulator) -> None:
    machine = create()
    with connect_machine(vers, machine.id) as shell:
        threading.Timer(0.5, emulator.cut_connections, (machine.id,)).start()
        with pytest.raises(errors.ShellUnavailable):
            shell.run("sleep 30", timeout=25)
    assert run_command(machine.id, "echo back") == "back"


def test_unreachable_gateway_is_reported(emulator: Emulator) -> None:
    machine = create()
    emulator.set(ssh_cut=True)
    with pytest.raises(errors.ShellUnavailable):
        connect_machine(vers, machine.id, 5)
    emulator.clear_faults()
    assert run_command(machine.id, "echo back") == "back"


def test_command_in_a_frozen_vm_times_out(emulator: Emulator) -> None:
    machine = create()
    with connect_machine(vers, machine.id) as shell:
        vers.pause(machine.id)
        with pytest.raises(errors.ShellUnavailable):
            shell.run("echo never", timeout=1)
    vers.resume(machine.id)
    assert run_command(machine.id, "echo back") == "back"
