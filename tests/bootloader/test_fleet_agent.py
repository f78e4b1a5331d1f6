"""The fleet agent as a process of its own, against a reef that really runs."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bootloader.root_stack import AGENT, FleetMember, RootStack
from tests.pythons import oldest_python
from tests.stack import free_port
from tests.waiting import until

DNA = {"organs": ["store", "cron"], "capabilities": ["vers-vm"]}
pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module")
def root_reef(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RootStack]:
    with RootStack(tmp_path_factory.mktemp("roof")) as running:
        yield running


@pytest.fixture
def vm(root_reef: RootStack, tmp_path: Path) -> Iterator[FleetMember]:
    """Provide a VM with a join token that has not joined yet."""
    vm_id = f"vm-{os.path.basename(tmp_path)}"
    member = FleetMember(
        tmp_path / "home",
        root_reef.url,
        oldest_python(),
        VERS_VM_ID=vm_id,
        REEF_ORGANS="store,cron",
        REEF_CAPABILITIES="vers-vm",
        REEF_ADDRESS=f"{vm_id}.vm.example",
        REEF_JOIN_TOKEN=root_reef.issue_join_token(vm_id, dna=DNA),
    )
    yield member
    member.end()


def id_of(vm: FleetMember) -> str:
    return vm.identity()["VERS_VM_ID"]


def test_agent_joins_sends_heartbeats_and_signs_off(root_reef: RootStack, vm: FleetMember) -> None:
    vm.start()
    state = vm.wait_for_heartbeat()

    row = root_reef.vm(id_of(vm))
    assert (row["status"], row["liveness"]) == ("running", "live")
    assert row["address"] == f"{id_of(vm)}.vm.example"
    assert row["reefConfig"] == DNA
    told = {"load", "disk", "reefConfigDigest", "machine", "clockSkewSeconds"}
    assert row["vitals"].keys() == told
    assert abs(row["vitals"]["clockSkewSeconds"]) < 60
    assert 0 < row["vitals"]["disk"] <= 100
    assert row["services"] == []
    # The root asks for 30 seconds with jitter.
    assert 20_000 <= state["nextBeatInMs"] <= 40_000
    assert vm.token.startswith("reef_")
    assert "REEF_JOIN_TOKEN" not in vm.identity()
    assert vm.identity_file.stat().st_mode & 0o777 == 0o600

    assert vm.end() == 0
    assert root_reef.vm(id_of(vm))["status"] == "stopped"
    assert "said good-bye" in vm.log_text()


@pytest.mark.parametrize(("hours", "words"), [(-75, "75 h behind"), (9600, "400 days ahead of")])
def test_wrong_clock_is_reported_and_harmless(
    root_reef: RootStack, vm: FleetMember, hours: int, words: str
) -> None:
    program = (
        "import runpy, sys, time; right = time.time;"
        f"time.time = lambda: right() + {hours * 3600};"
        f"sys.argv = ['agent', 'run', '--home', {str(vm.home)!r}];"
        f"runpy.run_path({str(AGENT)!r}, run_name='__main__')"
    )
    with (vm.home / "log.txt").open("wb") as log:
        agent = subprocess.Popen([vm.python, "-c", program], stderr=log)
    try:
        until(lambda: "clockSkewSeconds" in root_reef.vm(id_of(vm)).get("vitals", {}), 60)
        row = root_reef.vm(id_of(vm))
        assert abs(row["vitals"]["clockSkewSeconds"] - hours * 3600) < 30
        assert (row["status"], row["liveness"]) == ("running", "live")
        said = (vm.home / "log.txt").read_text()
        assert f"this machine's clock is {words} reef's" in said
    finally:
        agent.terminate()
        agent.wait(20)


def test_no_secret_is_an_argument_or_in_the_log(root_reef: RootStack, vm: FleetMember) -> None:
    join_token = vm.identity()["REEF_JOIN_TOKEN"]
    vm.start()
    vm.wait_for_heartbeat()

    assert vm.process is not None
    proc = Path(f"/proc/{vm.process.pid}")
    seen = (proc / "cmdline").read_bytes() + (proc / "environ").read_bytes()
    seen += vm.log.read_bytes() + (vm.home / "run/fleet-agent.json").read_bytes()
    assert vm.token.encode() not in seen
    assert join_token.encode() not in seen


def test_join_token_is_read_from_its_own_file(root_reef: RootStack, vm: FleetMember) -> None:
    identity = vm.identity()
    file = vm.home / "join-token"
    file.touch(0o600)
    file.write_text(identity.pop("REEF_JOIN_TOKEN") + "\n")
    vm.write(identity)
    env = vm.home / "identity.env"
    env.touch(0o600)
    env.write_text("export VERS_AGENT_NAME='it''s me'\nexport VERS_AUTH_TOKEN=old\n")

    done = vm.run_agent("join")

    assert done.returncode == 0, done.stderr
    assert not file.exists()
    assert root_reef.is_valid_token(vm.token)
    shown = ["sh", "-c", f". {env}; echo $VERS_AUTH_TOKEN $VERS_AGENT_NAME"]
    assert subprocess.check_output(shown, text=True).split() == [vm.token, "its", "me"]
    assert vm.token not in done.stdout + done.stderr


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604])
def test_token_readable_by_others_is_not_used(
    root_reef: RootStack, vm: FleetMember, mode: int
) -> None:
    vm.identity_file.chmod(mode)

    done = vm.run_agent("join")

    assert done.returncode == 1
    assert f"mend it with: chmod 600 {vm.identity_file}" in done.stderr
    assert root_reef.vm(id_of(vm)) == {}


@pytest.mark.rotated
def test_agent_survives_an_unreachable_root(root_reef: RootStack, vm: FleetMember) -> None:
    vm.start()
    vm.wait_for_heartbeat()
    vm.kill()
    root_reef.kill("edge")
    vm.start()
    until(lambda: vm.state().get("failures", 0) >= 3, 30)

    assert vm.process is not None
    assert vm.process.poll() is None
    assert "does not answer" in vm.state()["problem"]
    # Logged once for all attempts.
    assert vm.log_text().count("does not answer") == 1

    root_reef.start("edge")
    vm.wait_for_heartbeat(40)
    assert vm.state()["failures"] == 0
    assert "beats again" in vm.log_text()
    assert root_reef.vm(id_of(vm))["liveness"] == "live"


@pytest.mark.rotated
def test_agent_waits_for_a_missing_web_process(root_reef: RootStack, vm: FleetMember) -> None:
    """Joining needs Django: the edge responds with 502, and the token is not used up."""
    root_reef.kill("web")
    vm.start()
    until(lambda: vm.state().get("failures", 0) >= 1, 30)
    assert " answers 502: " in vm.state()["problem"]

    root_reef.start("web")

    vm.wait_for_heartbeat(40)
    assert root_reef.vm(id_of(vm))["status"] == "running"


@pytest.mark.rotated
def test_pauses_grow_and_are_randomized(vm: FleetMember) -> None:
    vm.update_identity(VERS_INFRA_URL=f"http://127.0.0.1:{free_port()}")
    vm.start()
    pauses: list[int] = []

    def has_enough_attempts() -> bool:
        state = vm.state()
        if state.get("failures", 0) > len(pauses):
            pauses.append(state["nextBeatInMs"])
        return len(pauses) >= 4

    until(has_enough_attempts, 40)
    for number, pause in enumerate(pauses):
        assert 500 * 2**number <= pause <= 1000 * 2**number
    assert len({pause % 1000 for pause in pauses}) > 1


def test_restarted_agent_continues(root_reef: RootStack, vm: FleetMember) -> None:
    vm.start()
    vm.wait_for_heartbeat()
    token = vm.token
    vm.kill()
    assert root_reef.vm(id_of(vm))["status"] == "running"

    vm.start()
    vm.wait_for_heartbeat()

    assert vm.token == token
    assert "joined" in vm.log_text()
    assert vm.log_text().count("joined") == 1


@pytest.mark.rotated
def test_join_is_repeated_after_a_crash_before_storing_the_token(
    root_reef: RootStack, vm: FleetMember
) -> None:
    """The agent stores its nonce for a join before it sends the request."""
    before = vm.identity()
    assert vm.run_agent("join").returncode == 0
    lost = vm.token
    (vm.home / "run").mkdir(exist_ok=True)
    vm.write(before)
    assert vm.run_agent("join").returncode == 1, "a repeated join needs the nonce"

    # A second VM with a stored nonce, as after a kill.
    again = FleetMember(vm.home.parent / "again", root_reef.url, vm.python, VERS_VM_ID="vm-again")
    again.update_identity(REEF_JOIN_TOKEN=root_reef.issue_join_token("vm-again"))
    before = again.identity()
    run = again.home / "run"
    run.mkdir(mode=0o700)
    (run / "join-nonce").touch(0o600)
    (run / "join-nonce").write_text("the-word-of-this-vm\n")
    assert again.run_agent("join").returncode == 0
    first = again.token
    again.write(before)
    (run / "join-nonce").touch(0o600)
    (run / "join-nonce").write_text("the-word-of-this-vm\n")

    assert again.run_agent("join").returncode == 0

    assert again.token != first
    assert root_reef.is_valid_token(again.token)
    assert not root_reef.is_valid_token(first)
    assert root_reef.is_valid_token(lost)


@pytest.mark.rotated
def test_agent_with_revoked_token_uses_a_new_join_token(
    root_reef: RootStack, vm: FleetMember
) -> None:
    vm.start()
    vm.wait_for_heartbeat()
    vm.kill()
    root_reef.client.delete(f"/vm-tree/vms/{id_of(vm)}/token")
    vm.start()
    until(lambda: "401" in vm.state().get("problem", ""), 20)

    assert vm.process is not None
    assert vm.process.poll() is None
    assert "the token was revoked" in vm.log_text()
    assert vm.run_agent("status").returncode == 1

    identity = vm.identity()
    del identity["VERS_AUTH_TOKEN"]
    vm.write({**identity, "REEF_JOIN_TOKEN": root_reef.issue_join_token(id_of(vm), dna=DNA)})

    vm.wait_for_heartbeat(20)
    assert root_reef.is_valid_token(vm.token)


def test_used_join_token_is_reported_and_nothing_is_stored(
    root_reef: RootStack, vm: FleetMember
) -> None:
    before = vm.identity()
    assert vm.run_agent("join").returncode == 0
    vm.write(before)

    done = vm.run_agent("join")

    assert done.returncode == 1
    assert "401: Unauthorized — this join token was used at 20" in done.stderr
    assert vm.identity() == before


@pytest.mark.rotated
def test_agent_registers_again_after_deregistration(root_reef: RootStack, vm: FleetMember) -> None:
    vm.start()
    vm.wait_for_heartbeat()
    vm.kill()
    assert root_reef.client.delete(f"/registry/vms/{id_of(vm)}").status_code == 200

    vm.start()
    vm.wait_for_heartbeat()

    row = root_reef.vm(id_of(vm))
    assert (row["registeredBy"], row["reefConfig"]) == ("fleet-agent", DNA)


def test_changed_composition_and_address_reach_the_registry(
    root_reef: RootStack, vm: FleetMember
) -> None:
    vm.start()
    vm.wait_for_heartbeat()
    vm.kill()
    vm.update_identity(REEF_ORGANS="store,docs", REEF_ADDRESS="elsewhere.example")

    vm.start()
    vm.wait_for_heartbeat()

    def known() -> bool:
        row = root_reef.vm(id_of(vm))
        return bool(row["reefConfig"]["organs"] == ["store", "docs"])

    until(known)
    assert root_reef.vm(id_of(vm))["address"] == "elsewhere.example"


@pytest.mark.rotated
def test_token_is_renewed_on_request(root_reef: RootStack, vm: FleetMember) -> None:
    vm.start()
    vm.wait_for_heartbeat()
    old = vm.token

    done = vm.run_agent("renew")

    assert done.returncode == 0, done.stderr
    assert vm.token != old
    assert root_reef.is_valid_token(vm.token)
    assert not root_reef.is_valid_token(old)
    # The running agent reads the new token from its file.
    assert vm.end() == 0
    assert root_reef.vm(id_of(vm))["status"] == "stopped"


@pytest.mark.rotated
def test_only_one_agent_runs_for_a_home(vm: FleetMember) -> None:
    vm.start()
    vm.wait_for_heartbeat()

    second = vm.run_agent("run")

    assert second.returncode == 1
    assert "a fleet agent runs already for" in second.stderr


@pytest.mark.rotated
def test_detached_agent_outlives_its_parent(root_reef: RootStack, vm: FleetMember) -> None:
    assert vm.run_agent("start").returncode == 0
    assert vm.run_agent("start").returncode == 0
    try:
        status = vm.run_agent("status", "--wait", "20")
        said = json.loads(status.stdout)
        assert status.returncode == 0
        assert (said["running"], said["good"]) == (True, True)
        assert os.getsid(said["pid"]) == said["pid"]
    finally:
        assert vm.run_agent("stop").returncode == 0
    assert root_reef.vm(id_of(vm))["status"] == "stopped"
    assert json.loads(vm.run_agent("status").stdout)["running"] is False
    assert "said good-bye" in (vm.home / "log" / "fleet-agent.log").read_text()


def test_agent_signs_off_quickly_while_the_root_hangs(vm: FleetMember) -> None:
    """SIGTERM arrives in the middle of a request."""
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        vm.update_identity(VERS_INFRA_URL=f"http://127.0.0.1:{deaf.getsockname()[1]}")
        vm.start()
        asking, _ = deaf.accept()
        assert asking.recv(10)

        assert vm.end() == 0
        asking.close()
    assert "stops without a good-bye" in vm.log_text()


def test_lieutenants_of_the_vm_are_reported(
    root_reef: RootStack, vm: FleetMember, tmp_path: Path
) -> None:
    env = {"VERS_AGENT_NAME": "ada", "VERS_VM_ID": "lt-1", "PATH": os.environ["PATH"]}
    with subprocess.Popen(["sleep", "60"], env=env) as agent:
        run = vm.home / "lieutenants" / "lt-1" / "runs" / "r"
        run.mkdir(parents=True)
        ticks = int(Path(f"/proc/{agent.pid}/stat").read_text().rpartition(")")[2].split()[19])
        facts = {"agent_pid": agent.pid, "agent_started": ticks}
        (run / "keeper.json").write_text(json.dumps(facts))
        gone = vm.home / "lieutenants" / "lt-2" / "runs" / "r"
        gone.mkdir(parents=True)
        (gone / "keeper.json").write_text(json.dumps({**facts, "agent_started": 1}))
        vm.start()
        vm.wait_for_heartbeat()
        agent.send_signal(signal.SIGKILL)

    told = root_reef.vm(id_of(vm))["services"]
    assert told == [{"name": "ada", "kind": "lieutenant", "pid": agent.pid, "vmId": "lt-1"}]


@pytest.mark.rotated
def test_own_reef_is_reported(root_reef: RootStack, vm: FleetMember) -> None:
    env = vm.home / "reef" / "reef.env"
    env.parent.mkdir()
    env.touch(0o600)
    with socket.create_server(("127.0.0.1", 0)) as own:
        port = own.getsockname()[1]
        env.write_text(f"export REEF_ORGANS='store'\nexport PORT='{port}'\n")
        vm.start()
        vm.wait_for_heartbeat()

    assert root_reef.vm(id_of(vm))["services"] == [
        {"name": "reef", "port": port, "protocol": "http"}
    ]


@pytest.mark.rotated
def test_token_is_not_sent_to_redirect_targets(vm: FleetMember) -> None:
    """The agent treats a redirect as an error."""
    with (
        socket.create_server(("127.0.0.1", 0)) as other,
        socket.create_server(("127.0.0.1", 0)) as false_roof,
    ):
        vm.update_identity(VERS_INFRA_URL=f"http://127.0.0.1:{false_roof.getsockname()[1]}")
        vm.start()
        asking, _ = false_roof.accept()
        asking.recv(65536)
        to = f"http://127.0.0.1:{other.getsockname()[1]}/"
        asking.sendall(f"HTTP/1.1 307 x\r\nLocation: {to}\r\nContent-Length: 0\r\n\r\n".encode())
        asking.close()
        until(lambda: "307" in vm.state().get("problem", ""))
        other.setblocking(False)
        with pytest.raises(BlockingIOError):
            other.accept()


def test_unit_is_accepted_by_systemd(vm: FleetMember, tmp_path: Path) -> None:
    odd = tmp_path / 'a home "with" 100% $odd\\ signs'
    odd.mkdir()
    made = subprocess.run(
        [vm.python, str(AGENT), "unit", "--home", str(odd)], capture_output=True, text=True
    )

    assert made.returncode == 0
    line = next(each for each in made.stdout.splitlines() if each.startswith("ExecStart="))
    assert 'with\\" 100%% $$odd\\\\ signs"' in line
    if verify := shutil.which("systemd-analyze"):
        unit = tmp_path / "reef-fleet-agent.service"
        unit.write_text(made.stdout)
        done = subprocess.run([verify, "verify", str(unit)], capture_output=True, text=True)
        assert "reef-fleet-agent" not in done.stderr, done.stderr


def test_older_python_is_rejected() -> None:
    program = (
        "import sys, runpy; sys.version_info = (3, 7, 0);"
        f"sys.argv = ['x', 'status']; runpy.run_path({str(AGENT)!r}, run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)

    assert done.returncode == 1
    assert "needs Python 3.8 or newer" in done.stderr
