"""Agents that an older server has started in tmux are taken over where they run."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from bootloader.models import Machine
from bootloader.providers.ssh.connect import connect_machine
from lieutenants.models import Lieutenant, Process
from lieutenants.unknown_agents.models import UnknownAgent
from registry import services as registry
from registry.services import Registration
from tests.bootloader.ssh_servers import OLDER_AGENT_FOLDER
from tests.conftest import STANDIN, Fleet, real_agent
from tests.lieutenants.remote.conftest import Site
from tests.lieutenants.remote.platform import Platform, vers
from tests.lieutenants.remote.test_remote_vms import platform as platform
from tests.lieutenants.remote.test_remote_vms import vm as vm
from tests.lieutenants.remote.test_unknown_agents_there import UNKNOWN, listed, lose_rows
from tests.stub_llm import StubLLM
from tests.waiting import until

FOLDER = Path(OLDER_AGENT_FOLDER)
DISCOVER = "/lieutenant/lieutenants/discover"
ADA = "/lieutenant/lieutenants/ada"

# As the older server does it, but for the folder, $3; $1 is the agent's command, $2 its working
# folder.
START = """
set -e
tmux kill-session -t pi-rpc 2>/dev/null || true
tmux kill-session -t pi-keeper 2>/dev/null || true
rm -rf "$3"; mkdir -p "$3" "$2"
mkfifo "$3/in"; touch "$3/out" "$3/err"
tmux new-session -d -s pi-keeper "sleep infinity > $3/in"
tmux new-session -d -s pi-rpc "cd $2 && $1 < $3/in >> $3/out 2>> $3/err"
"""


def start(command: str, workspace: Path) -> int:
    """Start an agent in the older server's layout on this machine; return its pid."""
    assert shutil.which("tmux"), "run the tests with `python3 manage.py test`"
    words = ["sh", "-c", START, "start", command, str(workspace), str(FOLDER)]
    subprocess.run(words, check=True, timeout=20)
    pid: int = until(older_pid, 20)
    return pid


def older_pid() -> int | None:
    """Return the agent that reads the FIFO and writes the file."""
    for folder in Path("/proc").glob("[0-9]*/fd"):
        with suppress(OSError):
            ends = [(folder / number).resolve() for number in ("0", "1")]
            if ends == [FOLDER / "in", FOLDER / "out"]:
                return int(folder.parent.name)
    return None


def tell(line: dict[str, Any]) -> None:
    """Send a command as the older server does."""
    with (FOLDER / "in").open("w") as fifo:
        fifo.write(json.dumps(line) + "\n")


def sessions() -> str:
    done = subprocess.run(["tmux", "ls"], capture_output=True, text=True, check=False)
    return done.stdout


@pytest.fixture
def tmux(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Have a tmux server of one's own, and leave nothing of the older server behind."""
    monkeypatch.setenv("TMUX_TMPDIR", str(tmp_path))
    yield
    subprocess.run(["tmux", "kill-server"], capture_output=True, check=False)
    shutil.rmtree(FOLDER, ignore_errors=True)


def discover(fleet: Fleet) -> list[str]:
    results: list[str] = fleet.api.post(DISCOVER).json()["results"]
    return results


@pytest.mark.usefixtures("tmux")
@pytest.mark.agent
@pytest.mark.parametrize("version", ["160", pytest.param("073", marks=pytest.mark.thorough)])
def test_agent_is_taken_over_and_goes_on(
    version: str,
    site: Site,
    stub: StubLLM,
    settings: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stub.reset()
    agent, fleet = real_agent(version), site.fleet
    monkeypatch.setattr("lieutenants.agents.pi.program.REMOTE_PATHS", (agent,))
    config = tmp_path / "pi"
    config.mkdir()
    (config / "models.json").write_text(json.dumps(stub.models_json()))
    settings.AGENT_CONFIG_DIR = config
    settings.DEFAULT_MODEL = "stub/echo"
    env = f"PI_CODING_AGENT_DIR={shlex.quote(str(config))} PI_OFFLINE=1 VERS_AGENT_NAME=ada"
    command = f"env {env} {shlex.quote(agent)} --mode rpc --model stub/echo"
    pid = start(command, tmp_path / "workspace")
    tell({"type": "prompt", "message": "hello"})
    until(lambda: "echo: hello" in (FOLDER / "out").read_text(), 30)

    assert discover(fleet) == [f"ada: reattached (far, pid {pid}, recovered lieutenant)"]
    fleet.wait("ada", "idle", 40)
    row = fleet.row("ada")
    assert (row.folder, row.is_local) == (str(tmp_path / "workspace"), False)
    until(lambda: fleet.texts("ada") == ["echo: hello"])
    assert fleet.texts("ada", "user") == ["hello"]
    assert fleet.ask("ada", "again") == "echo: again"
    (line,) = discover(fleet)
    assert line.startswith("ada: already followed (far, pid ")

    # Reef's own programs beside the agent are killed: another pair goes on with it.
    handle = fleet.process("ada").handle
    note = site.agents / "lieutenants" / row.pk / "older-agent.json"
    size = (FOLDER / "out").stat().st_size
    until(lambda: note.exists() and json.loads(note.read_text())["offset"] == size)
    for each in ("keeper_pid", "agent_pid"):
        os.kill(handle[each], signal.SIGKILL)
    until(lambda: Process.objects.filter(lieutenant=row).count() == 2, 30)
    fleet.wait("ada", "idle", 40)
    assert older_pid() == pid
    assert "pi-keeper" in sessions()
    assert fleet.ask("ada", "and again") == "echo: and again"
    assert fleet.texts("ada") == ["echo: hello", "echo: again", "echo: and again"]

    # The host cannot be paused, so the agent ends; the next one continues its session.
    assert fleet.api.post(f"{ADA}/pause").status_code == 200
    until(lambda: fleet.row("ada").live_process() is None, 30)
    assert not Path(f"/proc/{pid}").exists()
    assert not FOLDER.exists()
    assert "pi-" not in sessions()
    assert fleet.api.post(f"{ADA}/resume").status_code == 200
    fleet.wait("ada", "idle", 40)
    stub.reset()
    assert fleet.ask("ada", "still there?") == "echo: still there?"
    assert "and again" in json.dumps(stub.requests[-1])


@pytest.mark.rotated
@pytest.mark.usefixtures("tmux")
def test_destroyed_agent_is_ended_and_not_brought_back(site: Site, tmp_path: Path) -> None:
    command = f"env VERS_AGENT_NAME=ada {sys.executable} {STANDIN} --mode rpc"
    pid = start(command, tmp_path)
    assert discover(site.fleet) == [f"ada: reattached (far, pid {pid}, recovered lieutenant)"]
    site.fleet.wait("ada", "idle")
    assert site.fleet.ask("ada", "hello") == "echo: hello"
    row = site.fleet.row("ada")
    assert site.fleet.api.delete(ADA).status_code == 200
    until(lambda: not Lieutenant.objects.with_leftovers().exists(), 30)
    assert not Path(f"/proc/{pid}").exists()
    assert not FOLDER.exists()
    assert not (site.agents / "lieutenants" / row.pk).exists()


def lose_rows_and_helpers(site: Site) -> None:
    """Let neither the database know of the agent, nor reef's programs attend to it there."""
    handle = site.fleet.process("ada").handle
    lose_rows(site)
    for each in ("keeper_pid", "agent_pid"):
        os.kill(handle[each], signal.SIGKILL)
    until(lambda: not Path(f"/proc/{handle['keeper_pid']}").exists())


@pytest.mark.usefixtures("tmux")
def test_agent_whose_rows_are_lost_is_taken_up_again_or_ended(site: Site, tmp_path: Path) -> None:
    pid = start(f"env VERS_AGENT_NAME=ada {sys.executable} {STANDIN} --mode rpc", tmp_path)
    discover(site.fleet)
    site.fleet.wait("ada", "idle")
    assert site.fleet.ask("ada", "hello") == "echo: hello"
    lose_rows(site)
    (line,) = discover(site.fleet)
    assert "no such lieutenant is known, left alone" in line
    (facts,) = listed(site.fleet.api)
    assert site.fleet.api.post(f"{UNKNOWN}/{facts['run']}/take-up").status_code == 202
    row = site.fleet.wait("ada", "idle")
    assert row.is_taken_over
    assert older_pid() == pid
    assert site.fleet.ask("ada", "again") == "echo: again"

    # The same without the pair of programs that attends to it there.
    lose_rows_and_helpers(site)
    discover(site.fleet)
    (facts,) = listed(site.fleet.api)
    assert (facts["name"], facts["agentPid"], facts["lieutenantId"]) == ("ada", pid, row.pk)
    assert site.fleet.api.post(f"{UNKNOWN}/{facts['run']}/take-up").status_code == 202
    assert site.fleet.wait("ada", "idle").pk == row.pk
    assert older_pid() == pid
    assert site.fleet.ask("ada", "and again") == "echo: and again"

    lose_rows_and_helpers(site)
    discover(site.fleet)
    UnknownAgent.objects.update(handle={"agent_pid": pid, "agent_started": 1})
    (facts,) = listed(site.fleet.api)
    assert site.fleet.api.post(f"{UNKNOWN}/{facts['run']}/end").status_code == 202
    assert older_pid() == pid, "that was another process"
    discover(site.fleet)
    (facts,) = listed(site.fleet.api)
    assert site.fleet.api.post(f"{UNKNOWN}/{facts['run']}/end").status_code == 202
    assert listed(site.fleet.api) == []
    assert older_pid() is None


@pytest.mark.usefixtures("tmux")
def test_agent_with_another_role_is_left_alone(site: Site, tmp_path: Path) -> None:
    env = "VERS_AGENT_NAME=ada VERS_AGENT_ROLE=worker"
    pid = start(f"env {env} {sys.executable} {STANDIN} --mode rpc", tmp_path)
    assert discover(site.fleet) == [
        f"far: not ours — an older server runs a worker there (far, pid {pid})"
    ]
    assert not Lieutenant.objects.exists()
    assert older_pid() == pid


@pytest.mark.usefixtures("tmux")
def test_end_of_the_agent_is_an_error_with_its_last_words(site: Site, tmp_path: Path) -> None:
    pid = start(f"env VERS_AGENT_NAME=ada {sys.executable} {STANDIN} --mode rpc", tmp_path)
    discover(site.fleet)
    site.fleet.wait("ada", "idle")
    with (FOLDER / "err").open("a") as file:
        file.write("out of luck\n")
    os.kill(pid, signal.SIGKILL)
    error = site.fleet.wait("ada", "error").error
    assert "out of luck" in error
    assert "which an older server had started, has ended" in error


@pytest.mark.rotated
@pytest.mark.usefixtures("tmux")
def test_new_session_ends_the_agent_that_lost_its_helper(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lieutenants.agents.pi.program.REMOTE_PATHS", (str(STANDIN),))
    pid = start(f"env VERS_AGENT_NAME=ada {sys.executable} {STANDIN} --mode rpc", tmp_path)
    discover(site.fleet)
    site.fleet.wait("ada", "idle")
    os.kill(site.fleet.process("ada").handle["agent_pid"], signal.SIGKILL)
    site.fleet.wait("ada", "error")
    assert older_pid() == pid
    assert site.fleet.api.post(f"{ADA}/restart", {"session": "new"}).status_code == 200
    site.fleet.wait("ada", "idle")
    assert older_pid() is None
    assert not FOLDER.exists()
    assert site.fleet.ask("ada", "hello") == "echo: hello"


# -- on a VM ---------------------------------------------------------------------------------


def on(vm: Machine, script: str) -> str:
    """Run a script on the VM; return its output."""
    with connect_machine(vers, vm.machine_id) as shell:
        ran = shell.script(script, timeout=30)
    assert ran.exit_status == 0, ran.errors
    return ran.output.decode().strip()


def test_registered_vm_is_paused_and_resumed_with_its_older_agent(
    platform: Platform, vm: Machine
) -> None:
    metadata = {"agentId": "ada", "role": "keeps the shop"}
    registry.register(
        Registration(
            id=vm.vm_id, name="anna", role="lieutenant", address="anna",
            registered_by="vers-lieutenant", metadata=metadata,
        )
    )  # fmt: skip
    with connect_machine(vers, vm.machine_id) as shell:
        shell.put("/root/agent.py", STANDIN.read_bytes(), 0o755)
    command = "python3 /root/agent.py --mode rpc"
    on(vm, f"set -- {shlex.quote(command)} /root/workspace /tmp/pi-rpc\n{START}")

    def found() -> str:
        # Until the agent has started, there is none.
        (line,) = discover(platform.fleet)
        return "" if line == "ada: agent gone (anna)" else line

    said = until(found)
    assert said.startswith("ada: reattached (anna, pid ")
    assert said.endswith(", keeps the shop)")
    platform.fleet.wait("ada", "idle", 60)
    assert platform.fleet.row("ada").role == "keeps the shop"
    assert platform.fleet.ask("ada", "hello") == "echo: hello"
    handle = platform.fleet.process("ada").handle

    assert platform.fleet.api.post(f"{ADA}/pause").status_code == 200
    until(lambda: platform.state(vm.machine_id) == "paused")
    assert discover(platform.fleet) == ["ada: paused (anna)"]
    assert platform.fleet.api.post(f"{ADA}/resume").status_code == 200
    platform.fleet.wait("ada", "idle", 60)
    assert platform.fleet.process("ada").handle == handle
    assert platform.fleet.ask("ada", "again") == "echo: again"
    assert on(vm, "tmux ls | cut -d: -f1 | sort | tr '\\n' ' '") == "pi-keeper pi-rpc"

    # The VM was not made for it, so it stays.
    assert platform.fleet.api.delete(ADA).status_code == 200
    until(lambda: not Lieutenant.objects.with_leftovers().exists(), 60)
    until(lambda: platform.state(vm.machine_id) in ("paused", "running"))
    assert on(
        vm, "ls /tmp/pi-rpc /root/.reef-agents 2>&1 | wc -l; tmux ls 2>&1 | head -1"
    ).startswith("2")
