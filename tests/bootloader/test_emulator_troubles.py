"""Faults that the emulated platform makes on demand, and its cleaning up."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.bootloader.emulator_client import PlatformClient
from tests.emulator.handle import Emulator
from tests.waiting import until

NEW: dict[str, object] = {"vm_config": {}}


@pytest.fixture
def bare(emulator: Emulator, tmp_path: Path) -> PlatformClient:
    return PlatformClient(emulator, tmp_path)


def test_operation_may_succeed_despite_a_503(emulator: Emulator, bare: PlatformClient) -> None:
    emulator.fail("new_root", status=503, done=True)
    lost = bare.http.post("/vm/new_root", json=NEW)
    assert (lost.status_code, lost.text) == (503, "503 Service unavailable")
    assert lost.headers["content-type"] == "text/plain; charset=utf-8"

    (vm,) = bare.http.get("/vms").json()
    emulator.fail("delete", status=503, done=True)
    assert bare.http.delete(f"/vm/{vm['vm_id']}").status_code == 503
    assert bare.http.get("/vms").json() == []


def test_operation_may_fail_with_a_503(emulator: Emulator, bare: PlatformClient) -> None:
    emulator.fail("new_root", status=503)
    assert bare.http.post("/vm/new_root", json=NEW).status_code == 503
    assert bare.http.get("/vms").json() == []


def test_response_can_be_delayed(emulator: Emulator, bare: PlatformClient) -> None:
    emulator.fail("new_root", status=503, done=True, after_s=0.2)
    emulator.set(boot_delay_s=0.3)
    began = time.monotonic()
    assert bare.http.post("/vm/new_root?wait_boot=true", json=NEW).status_code == 503
    assert time.monotonic() - began >= 0.2
    until(lambda: [vm["state"] for vm in emulator.vms()] == ["running"])


def test_fault_applies_the_configured_number_of_times(
    emulator: Emulator, bare: PlatformClient
) -> None:
    emulator.fail("list", status=500, times=2, skip=1, error="db error: gone")
    answers = [bare.http.get("/vms") for _ in range(4)]
    assert [answer.status_code for answer in answers] == [200, 500, 500, 200]
    assert answers[1].json() == {"error": "db error: gone", "success": False}
    assert emulator.state_of_platform()["faults"][0]["hits"] == 2


def test_excess_requests_get_429(emulator: Emulator, bare: PlatformClient) -> None:
    emulator.fail("status", status=429)
    answer = bare.http.get("/vm/00000000-0000-4000-8000-000000000000/status")
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "1")

    emulator.set(requests_per_second=3, retry_after_s=2)
    answers = [bare.http.get("/vms") for _ in range(4)]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
    assert answers[3].headers["retry-after"] == "2"


def test_exceeded_quota_is_a_403(emulator: Emulator, bare: PlatformClient) -> None:
    emulator.set(quota_vcpus=2, quota_mib=1024)
    vm_id = bare.create(vcpu_count=2, mem_size_mib=512)
    bare.set_state(vm_id, "Paused")
    refused = bare.http.post("/vm/new_root", json=NEW)
    assert refused.status_code == 403
    assert refused.json()["error"].startswith(
        "vCPU limit exceeded: this VM requires 1 vCPUs, but org is using 2/2 vCPUs."
    )
    hybrid = bare.http.post(f"/vm/branch/by_vm/{vm_id}")
    assert (hybrid.status_code, hybrid.json()["vms"]) == (403, [])

    emulator.set(quota_vcpus=9)
    big = bare.http.post("/vm/new_root", json={"vm_config": {"mem_size_mib": 1024}})
    assert big.json()["error"].startswith("Memory limit exceeded")


def test_vm_disappears_if_its_boot_fails(emulator: Emulator, bare: PlatformClient) -> None:
    emulator.set(fail_boots=1, boot_delay_s=0.1)
    vm_id = bare.http.post("/vm/new_root", json=NEW).json()["vm_id"]
    assert bare.state(vm_id) == "booting"
    until(lambda: bare.state(vm_id) == "gone")

    emulator.set(fail_boot_rate=1.0)
    refused = bare.http.post("/vm/new_root?wait_boot=true", json=NEW)
    assert refused.status_code == 500
    assert refused.json()["error"].startswith("failed to provision VM on node")


def test_calls_can_skip_waiting_for_the_boot(emulator: Emulator, bare: PlatformClient) -> None:
    emulator.set(boot_delay_s=0.3)
    vm_id = bare.http.post("/vm/new_root", json=NEW).json()["vm_id"]
    path = f"/vm/{vm_id}/state"
    early = bare.http.patch(f"{path}?skip_wait_boot=true", json={"state": "Paused"})
    assert (early.status_code, "still booting" in early.text) == (500, True)
    bare.set_state(vm_id, "Paused")
    assert bare.state(vm_id) == "paused"


def test_list_can_omit_a_vm(emulator: Emulator, bare: PlatformClient) -> None:
    vm_id = bare.create()
    emulator.set(list_gap=1)
    assert bare.http.get("/vms").json() == []
    assert bare.state(vm_id) == "running"
    assert len(bare.http.get("/vms").json()) == 1


def test_interrupted_branch_lists_the_created_vms(emulator: Emulator, bare: PlatformClient) -> None:
    vm_id = bare.create()
    emulator.set(branch_fail_after=2)
    answer = bare.http.post(f"/vm/branch/by_vm/{vm_id}?count=3")
    assert (answer.status_code, len(answer.json()["vms"])) == (500, 2)
    assert len(emulator.vms()) == 3

    emulator.set(branch_fail_after=None, branch_shape="vm_id")
    old = bare.http.post(f"/vm/{vm_id}/branch").json()
    assert old.keys() == {"vm_id"}


def test_failed_commits_and_smaller_disks_are_errors(
    emulator: Emulator, bare: PlatformClient
) -> None:
    vm_id = bare.create()
    emulator.set(commit_fail=True)
    assert bare.http.post(f"/vm/{vm_id}/commit").status_code == 500
    assert bare.http.get("/commits").json()["commits"] == []
    assert bare.state(vm_id) == "running"
    assert bare.http.patch(f"/vm/{vm_id}/disk", json={"fs_size_mib": 1024}).status_code == 500
    emulator.set(disk_error_status=400)
    assert bare.http.patch(f"/vm/{vm_id}/disk", json={"fs_size_mib": 1024}).status_code == 400


def test_pause_can_require_the_state_sleeping(emulator: Emulator, bare: PlatformClient) -> None:
    vm_id = bare.create()
    emulator.set(state_write_enum="sleeping")
    refused = bare.http.patch(f"/vm/{vm_id}/state", json={"state": "Paused"})
    assert (refused.status_code, "`Sleeping` or `Running`" in refused.text) == (422, True)
    bare.set_state(vm_id, "Sleeping")
    asleep = bare.http.get(f"/vm/{vm_id}/ssh_key")
    assert (asleep.status_code, "is it sleeping?" in asleep.text) == (409, True)
    assert bare.http.post(f"/vm/{vm_id}/exec", json={"command": ["true"]}).status_code == 500
    bare.set_state(vm_id, "Running")
    assert bare.run(vm_id, "echo awake") == "awake"


def test_commands_in_a_paused_vm_time_out(emulator: Emulator, bare: PlatformClient) -> None:
    vm_id = bare.create()
    bare.set_state(vm_id, "Paused")
    emulator.set(hang_s=0.2, delete_paused=False)
    assert bare.http.post(f"/vm/{vm_id}/exec", json={"command": ["true"]}).status_code == 503
    assert bare.http.delete(f"/vm/{vm_id}").status_code == 500
    bare.set_state(vm_id, "Running")
    emulator.set(exec_cap_s=0.1)
    long = bare.http.post(f"/vm/{vm_id}/exec", json={"command": ["sleep", "60"]})
    assert (long.status_code, "network timeout" in long.text) == (500, True)


def test_responses_can_have_unknown_fields_and_latency(
    emulator: Emulator, bare: PlatformClient
) -> None:
    bare.create()
    emulator.set(unknown_fields=True, labels_in_vm=False, latency_ms=100, ssh_delay_s=60)
    began = time.monotonic()
    (vm,) = bare.http.get("/vms").json()
    assert time.monotonic() - began >= 0.1
    assert "announced_nowhere" in vm
    assert "labels" not in vm
    assert bare.ssh(vm["vm_id"], "true")[0] == 255


def test_unknown_switches_are_rejected(emulator: Emulator) -> None:
    for values in ({"no_such": 1}, {"quota_vcpus": "many"}, {"commit_fail": 1}):
        with pytest.raises(AssertionError, match=r"no such switch|is no"):
            emulator.set(**values)


# -- cleanup


def tag(emulator: Emulator) -> str:
    return (emulator.state / "tag").read_text()


def traces(emulator: Emulator, mark: str) -> list[str]:
    """Return the resources of this machine that still belong to an emulator."""
    commands = [
        "ip -o link",
        "iptables-save",
        "cat /proc/mounts",
        "ps -eo pid,args",
        "ls /run/vm-emulators",
    ]
    lines: list[str] = []
    for command in commands:
        done = subprocess.run(command.split(), capture_output=True, text=True, check=False)
        lines += done.stdout.splitlines()
    return [line for line in lines if mark in line or str(emulator.state) in line]


@pytest.fixture(params=["auto", "plain"])
def own_emulator(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Emulator]:
    """Start a separate emulator with a paused VM and a working one."""
    with Emulator(tmp_path / "state", mode=request.param) as running:
        bare = PlatformClient(running, tmp_path)
        bare.set_state(bare.create(), "Paused")
        bare.ssh(bare.create(), "nohup sleep 1000 > /dev/null 2>&1 < /dev/null &")
        yield running


def test_stop_removes_everything(own_emulator: Emulator) -> None:
    mark = tag(own_emulator)
    own_emulator.stop()

    until(lambda: not traces(own_emulator, mark))
    assert not list(own_emulator.state.glob("vms/*"))


def test_start_cleans_up_after_a_killed_emulator(own_emulator: Emulator, tmp_path: Path) -> None:
    mark = tag(own_emulator)
    own_emulator.set(ssh_cut=True)
    if own_emulator.mode == "namespaces":
        # A process that resembles one of the emulator's.
        foreign = f"rb{int(mark, 16) ^ 1:06x}"
        subprocess.run(["ip", "link", "add", foreign, "type", "bridge"], check=True)
    commit = PlatformClient(own_emulator, tmp_path).commit(own_emulator.vms()[1]["vm_id"])
    own_emulator.kill()

    try:
        own_emulator.start()
        assert own_emulator.vms() == []
        assert not list(own_emulator.state.glob("vms/*"))
        bare = PlatformClient(own_emulator, tmp_path)
        # Commits and the key are kept.
        assert bare.run(bare.restore(commit), "echo again") == "again"
        own_emulator.stop()
        until(lambda: not traces(own_emulator, mark))
    finally:
        if own_emulator.mode == "namespaces":
            subprocess.run(["ip", "link", "del", foreign], check=True)


def test_vms_end_with_the_fork_server(emulator: Emulator, bare: PlatformClient) -> None:
    if emulator.mode != "namespaces":
        pytest.skip("needs root and namespaces")
    vm_id = bare.create()
    assert emulator.process
    for entry in Path("/proc").glob("[0-9]*/comm"):
        with contextlib.suppress(OSError):
            if (
                entry.read_text() == "vm-fork-server\n"
                and parent(entry.parent) == emulator.process.pid
            ):
                os.kill(int(entry.parent.name), signal.SIGKILL)

    until(lambda: bare.state(vm_id) == "dead")
    # The next VM gets a new fork server.
    assert bare.run(bare.create(), "echo here") == "here"


def parent(process: Path) -> int:
    """Return the pid of a process's parent."""
    return int((process / "stat").read_text().rpartition(")")[2].split()[1])


def test_emulator_ends_with_its_parent(tmp_path: Path) -> None:
    state = tmp_path / "state"
    script = (
        "from pathlib import Path; from tests.emulator.handle import Emulator; import time\n"
        f"e = Emulator(Path({str(state)!r})).start()\n"
        "print(e.process.pid, e.url, flush=True); time.sleep(600)"
    )
    root = Path(__file__).resolve().parents[2]
    words = [sys.executable, "-c", script]
    with subprocess.Popen(words, cwd=root, stdout=subprocess.PIPE, text=True) as starter:
        assert starter.stdout is not None
        pid, url = starter.stdout.readline().split()
        assert httpx.get(f"{url}/health").status_code == 200
        starter.send_signal(signal.SIGKILL)

    until(lambda: not Path(f"/proc/{pid}").exists())


def test_second_emulator_on_a_folder_is_refused(own_emulator: Emulator) -> None:
    second = Emulator(own_emulator.state)
    with pytest.raises(AssertionError, match="already runs"):
        second.start()
