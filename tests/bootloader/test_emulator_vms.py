"""The emulated platform's VMs are real: they boot, let one in by SSH, and go without a trace."""

from __future__ import annotations

import http.server
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bootloader.emulator_client import PlatformClient
from tests.emulator.handle import Emulator
from tests.waiting import PATIENCE, until


@pytest.fixture
def bare(emulator: Emulator, tmp_path: Path) -> PlatformClient:
    return PlatformClient(emulator, tmp_path)


@pytest.fixture
def separate_machines(emulator: Emulator) -> None:
    """Skip the test where VMs share this machine's disk and network."""
    if emulator.mode != "namespaces":
        pytest.skip("needs root and namespaces")


@pytest.fixture
def root_url(emulator: Emulator) -> Iterator[str]:
    """Start a web server at the address where VMs find this machine; provide its URL."""
    address = (emulator.bridge_address, 0)
    server = http.server.HTTPServer(address, http.server.BaseHTTPRequestHandler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://{emulator.bridge_address}:{server.server_port}/"
    server.shutdown()
    thread.join()
    server.server_close()


def test_vm_boots_and_accepts_its_key(bare: PlatformClient) -> None:
    vm_id = bare.create(labels={"for": "a test"})

    assert bare.state(vm_id) == "running"
    assert bare.http.get("/vms").json()[0]["labels"] == {"for": "a test"}
    assert bare.ssh(vm_id, "echo ready; exit 3") == (3, "ready\n")


def test_vm_boots_within_a_second(bare: PlatformClient) -> None:
    bare.run(bare.create(), "true")

    began = time.monotonic()
    bare.run(bare.create(), "true")
    # Usually a third of this; other tests may be running.
    assert time.monotonic() - began < 5.0 * PATIENCE


def test_boot_takes_the_configured_delay(emulator: Emulator, bare: PlatformClient) -> None:
    emulator.set(boot_delay_s=0.5)
    vm_id = bare.http.post("/vm/new_root", json={"vm_config": {}}).json()["vm_id"]

    assert bare.state(vm_id) == "booting"
    assert bare.http.get(f"/vm/{vm_id}/ssh_key").status_code == 500
    until(lambda: bare.state(vm_id) == "running")


@pytest.mark.usefixtures("separate_machines")
def test_vm_has_its_own_name_processes_and_disk(bare: PlatformClient) -> None:
    one, other = bare.create(), bare.create()
    bare.run(one, "hostname changed; echo mine > /usr/share/mine; echo x > /root/x; touch /tmp/t")

    assert bare.run(other, "ls -A /tmp /root/x /usr/share/mine 2>/dev/null; hostname") != "changed"
    assert not Path("/usr/share/mine").exists()
    assert bare.run(other, "cat /etc/vm_id") == other
    # It has its own first process and sees only its own processes.
    assert int(bare.run(other, "ls -d /proc/[0-9]* | wc -l")) < 12
    keys = [bare.run(vm_id, "cat /etc/ssh/ssh_host_ed25519_key.pub") for vm_id in (one, other)]
    assert keys[0] != keys[1]


@pytest.mark.usefixtures("separate_machines")
def test_vm_reaches_the_root_unless_its_cable_is_disconnected(
    emulator: Emulator, bare: PlatformClient, root_url: str
) -> None:
    vm_id = bare.create()
    ask = f"curl -s -o /dev/null -m 2 -w '%{{http_code}}' {root_url}"

    assert bare.ssh(vm_id, ask) == (0, "501")
    facts = bare.http.post(f"/vm/{vm_id}/exec", json={"command": ["sh", "-c", ask]}).json()
    assert facts["stdout"] == "501"

    emulator.set_cable(vm_id, up=False)
    facts = bare.http.post(f"/vm/{vm_id}/exec", json={"command": ["sh", "-c", ask]}).json()
    assert facts["stdout"] == "000"
    emulator.set_cable(vm_id, up=True)
    until(lambda: bare.ssh(vm_id, ask) == (0, "501"))


def test_ssh_and_sftp_transfer_data_in_both_directions(
    bare: PlatformClient, tmp_path: Path
) -> None:
    vm_id = bare.create()
    assert bare.ssh(vm_id, "cat; exit 7", stdin=b"through TLS") == (7, "through TLS")

    (tmp_path / "here").write_text("content")
    argv = bare.ssh_argv(vm_id, program="sftp")
    put = f"put {tmp_path}/here there\n".encode()
    subprocess.run([*argv[:-1], "-b", "-", argv[-1]], input=put, timeout=30, check=True)
    assert bare.run(vm_id, "cat ~/there") == "content"


@pytest.mark.usefixtures("separate_machines")
def test_gateway_routes_http_by_the_name_of_the_vm(
    emulator: Emulator, bare: PlatformClient
) -> None:
    def get(vm_id: str) -> str:
        name = f"{vm_id}.{emulator.domain}"
        there = f"{name}:443:{emulator.gateway_host}:{emulator.gateway_port}"
        argv = ["--cacert", emulator.ca_file, "--connect-to", there, f"https://{name}/"]
        done = subprocess.run(
            ["curl", "-s", "-m", "10", *argv], capture_output=True, text=True, check=False
        )
        return done.stdout

    vm_id = bare.create()
    assert get("00000000-0000-4000-8000-000000000000") == "404 Not Found"
    assert get(vm_id) == "503 Service unavailable"
    bare.run(vm_id, "mkdir w; echo hello > w/index.html")
    serve = "nohup python3 -m http.server -d w 80 > /dev/null 2>&1 < /dev/null &"
    bare.run(vm_id, serve)
    until(lambda: get(vm_id) == "hello\n")


def test_pause_stops_all_processes_and_resume_continues_them(bare: PlatformClient) -> None:
    vm_id = bare.create()
    count = "nohup sh -c 'while :; do echo x; sleep 0.01; done' > ~/count 2>&1 & echo $! > ~/pid"
    bare.run(vm_id, f"{count}; until [ -s ~/count ]; do sleep 0.01; done")

    bare.set_state(vm_id, "Paused")
    assert bare.state(vm_id) == "paused"
    assert bare.http.get(f"/vm/{vm_id}/ssh_key").status_code == 500
    bare.set_state(vm_id, "Running")

    before = int(bare.run(vm_id, "wc -l < ~/count"))
    assert bare.run(vm_id, "kill -0 $(cat ~/pid) && echo the same process") == "the same process"
    until(lambda: int(bare.run(vm_id, "wc -l < ~/count")) > before)


def test_paused_vm_writes_nothing(emulator: Emulator, bare: PlatformClient) -> None:
    """A commit contains what the VM has written, which is nothing while it is paused."""
    vm_id = bare.create()
    clock = "while :; do date +%s%N > ~/new; mv ~/new ~/now; done"
    wait = "until [ -s ~/now ]; do sleep 0.01; done"
    bare.run(vm_id, f"nohup sh -c '{clock}' > /dev/null 2>&1 < /dev/null & {wait}")
    bare.set_state(vm_id, "Paused")
    first = bare.restore(bare.commit(vm_id, "?keep_paused=true"))
    second = bare.restore(bare.commit(vm_id, "?keep_paused=true"))

    assert bare.state(vm_id) == "paused"
    assert bare.run(first, "cat ~/now") == bare.run(second, "cat ~/now")


def test_copy_has_the_files_of_its_parent(emulator: Emulator, bare: PlatformClient) -> None:
    parent = bare.create(labels={"only": "here"})
    bare.run(parent, "echo VERS_VM_ID=parent > ~/identity; mkdir ~/deep; echo text > ~/deep/file")
    pem = bare.pem(parent)
    child = bare.restore(bare.commit(parent))
    grandchild = bare.restore(bare.commit(child))

    for vm_id in (child, grandchild):
        assert bare.run(vm_id, "cat ~/identity ~/deep/file") == "VERS_VM_ID=parent\ntext"
        code, errors = bare.ssh(vm_id, "true", pem)
        assert (code, "Permission denied" in errors) == (255, True)
    facts = bare.http.get(f"/vm/{child}/metadata").json()
    assert facts["grandparent_vm_id"] == parent
    assert bare.http.get(f"/vm/{child}/status").json()["labels"] == {}
    line = bare.http.get(f"/vm/commits/{facts['parent_commit_id']}/parents").json()
    assert [each["id"] for each in line] == [facts["parent_commit_id"]]


@pytest.mark.usefixtures("separate_machines")
def test_copy_has_its_own_id_and_the_host_key_of_its_parent(bare: PlatformClient) -> None:
    parent = bare.create()
    made = bare.http.post(f"/vm/branch/by_vm/{parent}?count=2").json()["vms"]
    show = "cat /etc/ssh/ssh_host_ed25519_key.pub; hostname"

    assert len(made) == 2
    for vm_id in (each["vm_id"] for each in made):
        assert bare.run(vm_id, "cat /etc/vm_id") == vm_id
        assert bare.run(vm_id, show) == bare.run(parent, show)
    assert bare.state(parent) == "running"


@pytest.mark.usefixtures("separate_machines")
def test_restored_vm_has_the_documented_pitfalls(emulator: Emulator, bare: PlatformClient) -> None:
    parent = bare.create()
    bare.run(parent, "echo early > ~/early; sync; sleep 0.05; echo late > ~/late")
    emulator.set(break_dns_after_restore=True, zero_unsynced_files=True)
    commit = bare.commit(parent)
    bare.http.put("/env_vars", json={"vars": {"COLOUR": "green"}})
    child = bare.restore(commit)

    assert bare.run(child, "cat /etc/resolv.conf") == "nameserver 127.0.0.53"
    assert bare.run(child, "cat ~/early") == "early"
    assert bare.run(child, "od -An -c ~/late").split() == ["\\0"] * 5
    # The account's variables arrive late and replace those of the image.
    until(lambda: bare.run(child, "cat /etc/environment") == "COLOUR=green")
    assert bare.run(child, "echo $COLOUR") == "green"
    assert bare.run(parent, "echo $COLOUR") == ""


def test_cut_aborts_connections_and_new_ones_work(emulator: Emulator, bare: PlatformClient) -> None:
    vm_id = bare.create()
    argv = [*bare.ssh_argv(vm_id), "echo in; sleep 1000"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as connection:
        assert connection.stdout is not None
        assert connection.stdout.readline() == b"in\n"
        assert emulator.cut_connections(vm_id) == 1
        assert connection.wait(10) == 255
    bare.run(vm_id, "true")

    emulator.set(ssh_cut=True)
    assert bare.ssh(vm_id, "true")[0] == 255
    emulator.set(ssh_cut=False)
    bare.run(vm_id, "true")


def test_crashed_vm_is_dead(emulator: Emulator, bare: PlatformClient) -> None:
    vm_id = bare.create()
    emulator.crash(vm_id)

    until(lambda: bare.state(vm_id) == "dead")
    assert bare.http.delete(f"/vm/{vm_id}").status_code == 200
    assert bare.state(vm_id) == "gone"


@pytest.mark.rotated
def test_twenty_vms_boot_at_once(emulator: Emulator, bare: PlatformClient) -> None:
    made = [
        bare.http.post("/vm/new_root", json={"vm_config": {}}).json()["vm_id"] for _ in range(20)
    ]
    until(lambda: all(vm["state"] == "running" for vm in emulator.vms()), 60)

    assert [bare.run(vm_id, "echo here") for vm_id in made] == ["here"] * 20
    for vm_id in made:
        assert bare.http.delete(f"/vm/{vm_id}").json() == {"vm_id": vm_id}
    assert bare.http.get("/vms").json() == []
