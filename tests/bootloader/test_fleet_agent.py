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

from tests.bootloader.root_stack import AGENT, Member, Roof
from tests.stack import free_port
from tests.waiting import until

DNA = {"organs": ["store", "cron"], "capabilities": ["vers-vm"]}
pytestmark = pytest.mark.timeout(180)


def oldest_python() -> str:
    """The oldest Python of this machine that the agent is written for."""
    folders = [Path(each) for each in os.environ["PATH"].split(":")]
    folders += sorted((Path.home() / ".pyenv" / "versions").glob("3.*/bin"))
    for minor in range(8, 11):
        for program in (folder / f"python3.{minor}" for folder in folders):
            # What lies on the path may be a stand-in for one that is not there.
            if program.exists() and not subprocess.call(
                [program, "-c", ""], stderr=subprocess.DEVNULL
            ):
                return str(program)
    return sys.executable


@pytest.fixture(scope="module")
def roof(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Roof]:
    with Roof(tmp_path_factory.mktemp("roof")) as running:
        yield running


@pytest.fixture
def vm(roof: Roof, tmp_path: Path) -> Iterator[Member]:
    """A VM with a join token, which has not joined yet."""
    vm_id = f"vm-{os.path.basename(tmp_path)}"
    member = Member(
        tmp_path / "home",
        roof.url,
        oldest_python(),
        VERS_VM_ID=vm_id,
        REEF_ORGANS="store,cron",
        REEF_CAPABILITIES="vers-vm",
        REEF_ADDRESS=f"{vm_id}.vm.example",
        REEF_JOIN_TOKEN=roof.invite(vm_id, dna=DNA),
    )
    yield member
    member.end()


def id_of(vm: Member) -> str:
    return vm.identity()["VERS_VM_ID"]


def test_agent_joins_sends_heartbeats_and_signs_off(roof: Roof, vm: Member) -> None:
    vm.start()
    state = vm.wait_for_beat()

    row = roof.vm(id_of(vm))
    assert (row["status"], row["liveness"]) == ("running", "live")
    assert row["address"] == f"{id_of(vm)}.vm.example"
    assert row["reefConfig"] == DNA
    told = {"load", "disk", "reefConfigDigest", "machine", "clockSkewSeconds"}
    assert row["vitals"].keys() == told
    assert abs(row["vitals"]["clockSkewSeconds"]) < 60
    assert 0 < row["vitals"]["disk"] <= 100
    assert row["services"] == []
    # As the roof asks: 30 seconds with jitter.
    assert 20_000 <= state["nextBeatInMs"] <= 40_000
    assert vm.token.startswith("reef_")
    assert "REEF_JOIN_TOKEN" not in vm.identity()
    assert vm.identity_file.stat().st_mode & 0o777 == 0o600

    assert vm.end() == 0
    assert roof.vm(id_of(vm))["status"] == "stopped"
    assert "said good-bye" in vm.said()


@pytest.mark.parametrize(("hours", "words"), [(-75, "75 h behind"), (9600, "400 days ahead of")])
def test_wrong_clock_is_reported_and_harmless(
    roof: Roof, vm: Member, hours: int, words: str
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
        until(lambda: "clockSkewSeconds" in roof.vm(id_of(vm)).get("vitals", {}), 60)
        row = roof.vm(id_of(vm))
        assert abs(row["vitals"]["clockSkewSeconds"] - hours * 3600) < 30
        assert (row["status"], row["liveness"]) == ("running", "live")
        said = (vm.home / "log.txt").read_text()
        assert f"this machine's clock is {words} reef's" in said
    finally:
        agent.terminate()
        agent.wait(20)


def test_no_secret_is_an_argument_or_in_the_log(roof: Roof, vm: Member) -> None:
    join_token = vm.identity()["REEF_JOIN_TOKEN"]
    vm.start()
    vm.wait_for_beat()

    assert vm.process is not None
    proc = Path(f"/proc/{vm.process.pid}")
    seen = (proc / "cmdline").read_bytes() + (proc / "environ").read_bytes()
    seen += vm.log.read_bytes() + (vm.home / "run/fleet-agent.json").read_bytes()
    assert vm.token.encode() not in seen
    assert join_token.encode() not in seen


def test_join_token_is_read_from_its_own_file(roof: Roof, vm: Member) -> None:
    identity = vm.identity()
    file = vm.home / "join-token"
    file.touch(0o600)
    file.write_text(identity.pop("REEF_JOIN_TOKEN") + "\n")
    vm.write(identity)
    env = vm.home / "identity.env"
    env.touch(0o600)
    env.write_text("export VERS_AGENT_NAME='it''s me'\nexport VERS_AUTH_TOKEN=old\n")

    done = vm.call("join")

    assert done.returncode == 0, done.stderr
    assert not file.exists()
    assert roof.opens(vm.token)
    shown = ["sh", "-c", f". {env}; echo $VERS_AUTH_TOKEN $VERS_AGENT_NAME"]
    assert subprocess.check_output(shown, text=True).split() == [vm.token, "its", "me"]
    assert vm.token not in done.stdout + done.stderr


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604])
def test_token_readable_by_others_is_not_used(roof: Roof, vm: Member, mode: int) -> None:
    vm.identity_file.chmod(mode)

    done = vm.call("join")

    assert done.returncode == 1
    assert f"mend it with: chmod 600 {vm.identity_file}" in done.stderr
    assert roof.vm(id_of(vm)) == {}


def test_agent_survives_an_unreachable_root(roof: Roof, vm: Member) -> None:
    vm.start()
    vm.wait_for_beat()
    vm.kill()
    roof.kill("edge")
    vm.start()
    until(lambda: vm.state().get("failures", 0) >= 3, 30)

    assert vm.process is not None
    assert vm.process.poll() is None
    assert "does not answer" in vm.state()["problem"]
    # Said once, however often it is tried.
    assert vm.said().count("does not answer") == 1

    roof.start("edge")
    vm.wait_for_beat(40)
    assert vm.state()["failures"] == 0
    assert "beats again" in vm.said()
    assert roof.vm(id_of(vm))["liveness"] == "live"


def test_agent_waits_for_a_missing_web_process(roof: Roof, vm: Member) -> None:
    """The edge says 502 then: joining needs Django, and the token is not lost by it."""
    roof.kill("web")
    vm.start()
    until(lambda: vm.state().get("failures", 0) >= 1, 30)
    assert " answers 502: " in vm.state()["problem"]

    roof.start("web")

    vm.wait_for_beat(40)
    assert roof.vm(id_of(vm))["status"] == "running"


def test_pauses_grow_and_are_randomized(vm: Member) -> None:
    vm.change(VERS_INFRA_URL=f"http://127.0.0.1:{free_port()}")
    vm.start()
    pauses: list[int] = []

    def enough() -> bool:
        state = vm.state()
        if state.get("failures", 0) > len(pauses):
            pauses.append(state["nextBeatInMs"])
        return len(pauses) >= 4

    until(enough, 40)
    for number, pause in enumerate(pauses):
        assert 500 * 2**number <= pause <= 1000 * 2**number
    assert len({pause % 1000 for pause in pauses}) > 1


def test_restarted_agent_continues(roof: Roof, vm: Member) -> None:
    vm.start()
    vm.wait_for_beat()
    token = vm.token
    vm.kill()
    assert roof.vm(id_of(vm))["status"] == "running"

    vm.start()
    vm.wait_for_beat()

    assert vm.token == token
    assert "joined" in vm.said()
    assert vm.said().count("joined") == 1


def test_join_is_repeated_after_a_crash_before_the_token_was_stored(roof: Roof, vm: Member) -> None:
    """Its word for this join lies on the disk before the question is asked."""
    before = vm.identity()
    assert vm.call("join").returncode == 0
    lost = vm.token
    (vm.home / "run").mkdir(exist_ok=True)
    vm.write(before)
    assert vm.call("join").returncode == 1, "without its word nobody comes in twice"

    # A second VM whose word was kept, as it is after a kill.
    again = Member(vm.home.parent / "again", roof.url, vm.python, VERS_VM_ID="vm-again")
    again.change(REEF_JOIN_TOKEN=roof.invite("vm-again"))
    before = again.identity()
    run = again.home / "run"
    run.mkdir(mode=0o700)
    (run / "join-nonce").touch(0o600)
    (run / "join-nonce").write_text("the-word-of-this-vm\n")
    assert again.call("join").returncode == 0
    first = again.token
    again.write(before)
    (run / "join-nonce").touch(0o600)
    (run / "join-nonce").write_text("the-word-of-this-vm\n")

    assert again.call("join").returncode == 0

    assert again.token != first
    assert roof.opens(again.token)
    assert not roof.opens(first)
    assert roof.opens(lost)


def test_agent_with_revoked_token_uses_a_new_join_token(roof: Roof, vm: Member) -> None:
    vm.start()
    vm.wait_for_beat()
    vm.kill()
    roof.client.delete(f"/vm-tree/vms/{id_of(vm)}/token")
    vm.start()
    until(lambda: "401" in vm.state().get("problem", ""), 20)

    assert vm.process is not None
    assert vm.process.poll() is None
    assert "the token was revoked" in vm.said()
    assert vm.call("status").returncode == 1

    identity = vm.identity()
    del identity["VERS_AUTH_TOKEN"]
    vm.write({**identity, "REEF_JOIN_TOKEN": roof.invite(id_of(vm), dna=DNA)})

    vm.wait_for_beat(20)
    assert roof.opens(vm.token)


def test_used_join_token_is_reported_and_nothing_is_stored(roof: Roof, vm: Member) -> None:
    before = vm.identity()
    assert vm.call("join").returncode == 0
    vm.write(before)

    done = vm.call("join")

    assert done.returncode == 1
    assert "401: Unauthorized — this join token was used at 20" in done.stderr
    assert vm.identity() == before


def test_agent_registers_again_after_deregistration(roof: Roof, vm: Member) -> None:
    vm.start()
    vm.wait_for_beat()
    vm.kill()
    assert roof.client.delete(f"/registry/vms/{id_of(vm)}").status_code == 200

    vm.start()
    vm.wait_for_beat()

    row = roof.vm(id_of(vm))
    assert (row["registeredBy"], row["reefConfig"]) == ("fleet-agent", DNA)


def test_changed_composition_and_address_reach_the_registry(roof: Roof, vm: Member) -> None:
    vm.start()
    vm.wait_for_beat()
    vm.kill()
    vm.change(REEF_ORGANS="store,docs", REEF_ADDRESS="elsewhere.example")

    vm.start()
    vm.wait_for_beat()

    def known() -> bool:
        row = roof.vm(id_of(vm))
        return bool(row["reefConfig"]["organs"] == ["store", "docs"])

    until(known)
    assert roof.vm(id_of(vm))["address"] == "elsewhere.example"


def test_token_is_renewed_on_request(roof: Roof, vm: Member) -> None:
    vm.start()
    vm.wait_for_beat()
    old = vm.token

    done = vm.call("renew")

    assert done.returncode == 0, done.stderr
    assert vm.token != old
    assert roof.opens(vm.token)
    assert not roof.opens(old)
    # The running agent takes what lies on the disk.
    assert vm.end() == 0
    assert roof.vm(id_of(vm))["status"] == "stopped"


def test_only_one_agent_runs_for_a_home(vm: Member) -> None:
    vm.start()
    vm.wait_for_beat()

    second = vm.call("run")

    assert second.returncode == 1
    assert "a fleet agent runs already for" in second.stderr


def test_detached_agent_outlives_its_parent(roof: Roof, vm: Member) -> None:
    assert vm.call("start").returncode == 0
    assert vm.call("start").returncode == 0
    try:
        status = vm.call("status", "--wait", "20")
        said = json.loads(status.stdout)
        assert status.returncode == 0
        assert (said["running"], said["good"]) == (True, True)
        assert os.getsid(said["pid"]) == said["pid"]
    finally:
        assert vm.call("stop").returncode == 0
    assert roof.vm(id_of(vm))["status"] == "stopped"
    assert json.loads(vm.call("status").stdout)["running"] is False
    assert "said good-bye" in (vm.home / "log" / "fleet-agent.log").read_text()


def test_sign_off_is_quick_while_the_root_hangs(vm: Member) -> None:
    """SIGTERM reaches it in the middle of a request."""
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        vm.change(VERS_INFRA_URL=f"http://127.0.0.1:{deaf.getsockname()[1]}")
        vm.start()
        asking, _ = deaf.accept()
        assert asking.recv(10)

        assert vm.end() == 0
        asking.close()
    assert "stops without a good-bye" in vm.said()


def test_lieutenants_of_the_vm_are_reported(roof: Roof, vm: Member, tmp_path: Path) -> None:
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
        vm.wait_for_beat()
        agent.send_signal(signal.SIGKILL)

    told = roof.vm(id_of(vm))["services"]
    assert told == [{"name": "ada", "kind": "lieutenant", "pid": agent.pid, "vmId": "lt-1"}]


def test_own_reef_is_reported(roof: Roof, vm: Member) -> None:
    env = vm.home / "reef" / "reef.env"
    env.parent.mkdir()
    env.touch(0o600)
    with socket.create_server(("127.0.0.1", 0)) as own:
        port = own.getsockname()[1]
        env.write_text(f"export REEF_ORGANS='store'\nexport PORT='{port}'\n")
        vm.start()
        vm.wait_for_beat()

    assert roof.vm(id_of(vm))["services"] == [{"name": "reef", "port": port, "protocol": "http"}]


def test_token_is_not_sent_to_redirect_targets(vm: Member) -> None:
    """A redirection is trouble, not an address."""
    with (
        socket.create_server(("127.0.0.1", 0)) as other,
        socket.create_server(("127.0.0.1", 0)) as false_roof,
    ):
        vm.change(VERS_INFRA_URL=f"http://127.0.0.1:{false_roof.getsockname()[1]}")
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


def test_unit_is_accepted_by_systemd(vm: Member, tmp_path: Path) -> None:
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
