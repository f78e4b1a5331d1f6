"""The real agent on a machine at the end of an SSH connection, against a scripted model."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pytest_django.live_server_helper import LiveServer

from bootloader.models import Machine
from lieutenants.models import Answer, Entry, Lieutenant, Message, Process, Question
from lieutenants.states import MessageState, Outcome
from tests.conftest import PINNED_AGENT_FIRST, real_agent
from tests.emulator.handle import Emulator
from tests.lieutenants.remote.conftest import Site
from tests.lieutenants.remote.platform import Platform, platform, vers, vm
from tests.lieutenants.remote.test_discovery import discover
from tests.lieutenants.remote.test_unknown_agents_there import UNKNOWN, listed, lose_rows
from tests.stub_llm import StubLLM
from tests.waiting import until
from tests.wire import mcp_server

__all__ = ["platform", "vm"]

pytestmark = pytest.mark.agent
PATH = "/lieutenant/lieutenants/far"
SAID = "0123456789" * 40


def use_agent(
    program: str, model: StubLLM, settings: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Let machines use this program of the real agent, with a scripted model."""
    monkeypatch.setattr("lieutenants.agents.pi.program.REMOTE_PATHS", (program,))
    settings.AGENT_CONFIG_DIR = folder / "pi"
    settings.AGENT_CONFIG_DIR.mkdir()
    (folder / "pi" / "models.json").write_text(json.dumps(model.models_json()))
    settings.DEFAULT_MODEL = "stub/echo"
    model.reset()


@pytest.fixture(params=PINNED_AGENT_FIRST)
def crew(
    request: pytest.FixtureRequest,
    site: Site,
    stub: StubLLM,
    settings: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Site:
    """A machine with the real agent."""
    use_agent(real_agent(request.param), stub, settings, tmp_path, monkeypatch)
    return site


def test_it_answers_through_a_cut_and_keeps_its_session(crew: Site, stub: StubLLM) -> None:
    fleet = crew.fleet
    crew.create("far", agent="pi")
    assert fleet.ask("far", "hello") == "echo: hello"
    assert (crew.folder("far") / "session" / "session.jsonl").exists()
    assert (crew.folder("far") / "agent" / "models.json").stat().st_mode & 0o777 == 0o600

    stub.script(
        {"tool": {"name": "bash", "arguments": {"command": "pwd"}}},
        {"steps": [{"text": SAID}, {"gate": "rest"}, {"text": " has spoken"}]},
    )
    fleet.send("far", "use your tool")
    until(lambda: fleet.get("far")["lastOutput"].endswith(SAID), 30)
    crew.line.cut()
    steer = fleet.send("far", "also this", mode="steer")
    stub.open_gate("rest")
    fleet.wait("far", "idle", 40)
    assert fleet.texts("far", "tool_result") == [f"{crew.folder('far')}/workspace\n"]
    texts = list(Answer.objects.order_by("id").values_list("text", flat=True))
    assert f"{SAID} has spoken" in texts[1]
    steer.refresh_from_db()
    assert steer.state == MessageState.ACCEPTED
    users = Entry.objects.filter(kind=Entry.Kind.USER).order_by("id")
    assert [each.text for each in users] == ["hello", "use your tool", "also this"]

    assert fleet.api.post("/lieutenant/lieutenants/far/pause").status_code == 200
    until(lambda: fleet.row("far").live_process() is None, 30)
    assert fleet.api.post("/lieutenant/lieutenants/far/resume").status_code == 200
    fleet.wait("far", "idle", 40)
    stub.reset()
    assert fleet.ask("far", "still there?") == "echo: still there?"
    asked = json.dumps(stub.requests[-1])
    assert "use your tool" in asked
    assert set(Message.objects.values_list("state", flat=True)) == {MessageState.ACCEPTED}

    # All rows are lost: the agent is found, and taken up where it runs.
    pid = fleet.process("far").handle["agent_pid"]
    lose_rows(crew)
    assert "no such lieutenant is known" in discover(crew)[0]
    (facts,) = listed(fleet.api)
    assert fleet.api.post(f"{UNKNOWN}/{facts['run']}/take-up").status_code == 202
    fleet.wait("far", "idle", 40)
    assert fleet.process("far").handle["agent_pid"] == pid
    # Another process of it, too, continues the session.
    for text in ("and now?", "and now again?"):
        assert fleet.ask("far", text) == f"echo: {text}"
        assert "use your tool" in json.dumps(stub.requests[-1])
        assert fleet.api.post(f"{PATH}/restart").status_code == 200
        fleet.wait("far", "idle", 40)


@pytest.fixture
def bridged(emulator_of_the_run: Emulator) -> Iterator[StubLLM]:
    """A scripted model that VMs of the emulator can reach."""
    with StubLLM(str(emulator_of_the_run.bridge_address)) as model:
        yield model


def link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


@pytest.fixture(params=PINNED_AGENT_FIRST)
def program_for_vms(request: pytest.FixtureRequest) -> Iterator[str]:
    """The real agent in a folder that VMs of the emulator see: they share /var/cache."""
    wrapper = Path(real_agent(request.param)).resolve()
    words = wrapper.read_text().split()
    cli = Path(next(word for word in words if word.endswith(".js")))
    modules = next(each for each in cli.parents if each.name == "node_modules")
    shared = "/var/cache" if os.access("/var/cache", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="reef-tests-", dir=shared) as folder:
        Path(folder).chmod(0o755)
        copy = Path(folder, "node_modules")
        shutil.copytree(modules, copy, symlinks=True, copy_function=link_or_copy)
        program = Path(folder, "pi")
        program.write_text(wrapper.read_text().replace(str(modules), str(copy)))
        program.chmod(0o755)
        yield str(program)


@pytest.fixture
def reachable_reef(
    live_server: LiveServer, emulator_of_the_run: Emulator, settings: Any
) -> Iterator[None]:
    """Let VMs of the emulator reach this reef, and its tools."""
    with mcp_server.serve(str(emulator_of_the_run.bridge_address), live_server.url) as address:
        settings.INFRA_URL, settings.AGENT_TOOLS = address, True
        yield


def ask_a_person(fleet: Any, model: StubLLM) -> None:
    """Let the agent use a tool of reef with its own token, and answer as a person."""
    offered = {each["function"]["name"] for each in model.requests[-1]["body"]["tools"]}
    [tool] = [each for each in offered if each.endswith("reef_ask")]
    given = {"text": "Go on?", "options": ["yes", "no"], "seconds": 0}
    model.script({"tool": {"name": tool, "arguments": given}}, {"text": "asked"})
    fleet.send("far", "ask a person")
    question = until(lambda: Question.objects.open().first(), 60)
    assert (question.text, question.lieutenant.name) == ("Go on?", "far")
    fleet.wait("far", "idle", 60)
    answer = fleet.api.post(f"/lieutenant/questions/{question.pk}/answer", {"answer": "yes"})
    assert answer.status_code == 200, answer.content
    assert f"question {question.pk} is open" in fleet.texts("far", "tool_result")[-1]


@pytest.mark.rotated
@pytest.mark.timeout(300)
@pytest.mark.usefixtures("reachable_reef")
def test_whole_life_on_a_vm_that_is_made_of_a_commit(
    program_for_vms: str,
    platform: Platform,
    vm: Machine,
    bridged: StubLLM,
    settings: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    use_agent(program_for_vms, bridged, settings, tmp_path, monkeypatch)
    fleet = platform.fleet
    commit = vers.commit(vm.machine_id, "golden")
    fleet.create("far", local=False, commitId=commit, ready=False)
    fleet.wait("far", "idle", 120)
    made = Machine.objects.get(vm_id=fleet.row("far").on_vm)

    bridged.script(
        {"tool": {"name": "bash", "arguments": {"command": "cat /etc/vm_id"}}},
        {"steps": [{"text": SAID}, {"gate": "rest"}, {"text": " has spoken"}]},
    )
    fleet.send("far", "where are you?")
    until(lambda: fleet.get("far")["lastOutput"].endswith(SAID), 60)
    assert made.machine_id in fleet.texts("far", "tool_result")[0]
    fleet.send("far", "steered", mode="steer")
    fleet.send("far", "followed", mode="followUp")
    bridged.open_gate("rest")
    until(lambda: not Message.objects.pending().exists(), 60)
    fleet.wait("far", "idle", 60)
    assert fleet.texts("far", "user") == ["where are you?", "steered", "followed"]
    assert f"{SAID} has spoken" in fleet.texts("far")
    ask_a_person(fleet, bridged)

    bridged.script({"steps": [{"text": "too long"}, {"gate": "never"}]})
    fleet.send("far", "go on and on")
    until(lambda: fleet.get("far")["lastOutput"].endswith("too long"), 60)
    assert fleet.api.post(f"{PATH}/abort").status_code == 200
    fleet.wait("far", "idle", 60)
    assert Answer.objects.order_by("-id")[0].outcome == Outcome.ABORTED

    pid = fleet.process("far").handle["agent_pid"]
    assert fleet.api.post(f"{PATH}/pause").status_code == 200
    until(lambda: platform.state(made.machine_id) == "paused", 60)
    assert fleet.api.post(f"{PATH}/resume").status_code == 200
    fleet.wait("far", "idle", 90)
    assert fleet.process("far").handle["agent_pid"] == pid
    bridged.reset()
    assert fleet.ask("far", "still there?", 60) == "echo: still there?"
    assert "where are you?" in json.dumps(bridged.requests[-1])
    assert set(Message.objects.values_list("state", flat=True)) == {MessageState.ACCEPTED}

    # What the database knew of the agent is lost: a discovery finds it and goes on with it.
    fleet.stop_follower()
    Process.objects.all().delete()
    Lieutenant.objects.update(status="error", error="lost")
    fleet.restart_follower()
    lines = fleet.api.post("/lieutenant/lieutenants/discover").json()["results"]
    assert f"far: reattached ({made.name}, pid {pid})" in lines
    fleet.wait("far", "idle", 60)
    assert fleet.process("far").handle["agent_pid"] == pid
    assert fleet.ask("far", "and now?", 60) == "echo: and now?"
    assert "where are you?" in json.dumps(bridged.requests[-1])

    assert fleet.api.delete(PATH).status_code == 200
    until(lambda: not Lieutenant.objects.with_leftovers().exists(), 90)
    until(lambda: platform.state(made.machine_id) == "gone", 30)
    assert platform.state(vm.machine_id) == "running"
