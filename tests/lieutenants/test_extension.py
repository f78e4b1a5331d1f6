"""The extension for a pi without an MCP client: alone in Node, and in the real agent."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings as our_settings
from django.test import Client
from pytest_django.live_server_helper import LiveServer

from lieutenants.agents import DIALECTS, extension
from lieutenants.agents.base import FoundProgram, RemoteMachine
from lieutenants.isolation import homes
from lieutenants.models import Lieutenant
from reef_site.common.tools import declared_tools
from registry.models import VM
from tests import contract_calls
from tests.conftest import Api, Fleet, real_agent
from tests.lieutenants.rows import enlist
from tests.stack import ROOT, free_port
from tests.stub_llm import StubLLM
from tests.waiting import until
from vmtree.models import Node

DRIVER = ROOT / "tests" / "agents" / "extension_driver.mjs"
ROOT_TOKEN = our_settings.ROOT_TOKEN
OLD_AGENTS = [
    pytest.param("073", id="pi-0.73.1"),
    pytest.param("087", id="pi-0.87.1", marks=pytest.mark.thorough),
]
Step = Callable[..., Any]


def environment(address: str, **more: str) -> dict[str, str]:
    return {
        **{name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ},
        "VERS_INFRA_URL": address,
        "VERS_AUTH_TOKEN": ROOT_TOKEN,
        **more,
    }


@contextmanager
def in_node(folder: Path, address: str, **more: str) -> Iterator[Step]:
    """Load the extension in Node; yield a function that runs a step of the driver."""
    node = json.loads((Path(real_agent("160")).parent / "installed.json").read_text())["node"]
    file = folder / "reef.ts"
    file.write_text(extension.text())
    process = subprocess.Popen(
        [node, str(DRIVER), str(file)],
        env=environment(address, **more),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    stdin, stdout = process.stdin, process.stdout

    def step(*words: object) -> Any:
        stdin.write(json.dumps(words) + "\n")
        stdin.flush()
        return json.loads(stdout.readline())

    with process:
        try:
            assert json.loads(stdout.readline()) == "loaded"
            yield step
            stdin.close()
            assert process.wait(20) == 0
        finally:
            process.kill()


@pytest.mark.django_db
def test_it_is_served_with_its_version(api: Api, client: Client) -> None:
    found = api.get("/agent/extension.ts")
    assert found.content.decode() == extension.text()
    assert found.headers["Reef-Extension-Version"] == extension.version()
    assert found.headers["Content-Type"] == "text/plain; charset=utf-8"
    known = {"If-None-Match": found.headers["ETag"]}
    assert api.client.get("/agent/extension.ts", headers=known).status_code == 304
    assert client.get("/agent/extension.ts").status_code == 401


@pytest.mark.agent
@pytest.mark.django_db(transaction=True)
def test_its_tools_are_those_of_reef(live_server: LiveServer, tmp_path: Path) -> None:
    with in_node(tmp_path, live_server.url + "/") as step:
        assert step("tools") == list(declared_tools())
        named = {"name": "x", "category": "swarm_vm", "vmId": "vm-1"}
        made = step("call", "vm_tree_register", named)
        assert made["content"] == [
            {"type": "text", "text": 'Registered "x" (swarm_vm) in tree. ID: vm-1'}
        ]
        assert made["details"]["vm"]["vmId"] == "vm-1"
        assert step("call", "reef_lt_read", {"name": "no"}) == {
            "thrown": "Error: Lieutenant not found"
        }
        assert step("call", "reef_lt_send", {"name": "no"})["thrown"] == (
            "Error: message is required"
        )
        waited = step("call", "reef_wait", {"vms": ["vm-1"], "seconds": 0})
        assert waited["content"][0]["text"].startswith("Not yet: vm-1 is not registered.")
        event = {"kind": ["tree.created"], "subject": "vm-1", "cursor": 0}
        found = step("call", "reef_wait", {"event": event, "seconds": 0})
        assert found["details"]["waits"][0]["event"]["actor"] == "root token"


@pytest.mark.agent
@pytest.mark.django_db(transaction=True)
def test_vm_is_registered_kept_alive_and_stopped_at_the_end(
    live_server: LiveServer, tmp_path: Path
) -> None:
    who = {"VERS_VM_ID": "vm/7", "VERS_AGENT_NAME": "seven", "VERS_AGENT_ROLE": "agent"}
    with in_node(tmp_path, live_server.url, **who) as step:
        step("on", "session_start")
        vm: VM = until(lambda: VM.objects.filter(pk="vm/7").first())
        assert (vm.name, vm.role, vm.status) == ("seven", "worker", "running")
        assert (vm.address, vm.registered_by) == ("vm/7.vm.vers.sh", "seven")
        # The delay until the next heartbeat is the server's, beside the widget's.
        delays: list[float] = until(lambda: [ms for ms in step("timers") if ms != 30_000])
        assert 0 < delays[0] < 60_000
        lines = ["--- Fleet Services --- " + live_server.url + "/ui", "Registry: 1 VMs (1 running)"]
        assert step("fire") > 0
        until(lambda: step("shown")["widgets"][-1][:2] == lines)

        step("on", "agent_end", {"messages": []})
        step("on", "session_shutdown", {"reason": "new"})
        assert VM.objects.get().status == "running"
        before = VM.objects.get().last_seen
        step("on", "session_start")
        until(lambda: VM.objects.get().last_seen > before)
        step("on", "session_shutdown", {"reason": "quit"})
        assert VM.objects.get().status == "stopped"


@pytest.mark.agent
@pytest.mark.django_db(transaction=True)
def test_reef_that_is_away_at_the_start_is_found_later(
    live_server: LiveServer, tmp_path: Path
) -> None:
    with in_node(tmp_path, f"http://127.0.0.1:{free_port()}", VERS_VM_ID="vm-8") as step:
        step("on", "session_start")
        assert step("tools") == []
        [note] = step("shown")["notes"]
        assert note.startswith("The tools of reef are not there yet: http://127.0.0.1:")
        assert note.endswith("cannot be reached: ECONNREFUSED")
        step("env", "VERS_INFRA_URL", live_server.url)
        step("on", "before_agent_start")
        assert step("tools") == list(declared_tools())
        step("on", "session_shutdown", {})
    with in_node(tmp_path, "") as step:
        step("on", "session_start")
        assert step("shown")["notes"][0].endswith(
            "VERS_INFRA_URL is not set: it is the address of reef"
        )


@pytest.fixture(params=OLD_AGENTS)
def old_crew(
    request: pytest.FixtureRequest,
    live_server: LiveServer,
    fleet: Fleet,
    stub: StubLLM,
    settings: Any,
    tmp_path: Path,
) -> Fleet:
    """A fleet of a real agent without an MCP client, which reaches this reef."""
    settings.PI_PATH = real_agent(request.param)
    settings.AGENT_CONFIG_DIR = tmp_path / "pi"
    settings.AGENT_CONFIG_DIR.mkdir()
    (tmp_path / "pi" / "models.json").write_text(json.dumps(stub.models_json()))
    settings.DEFAULT_MODEL = "stub/echo"
    settings.INFRA_URL = live_server.url
    settings.AGENT_TOOLS = True
    stub.reset()
    return fleet


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("version", "tools", "is_given"),
    [("0.73.1", True, True), ("0.73.1", False, False), ("1.6.0", True, False), ("", True, False)],
)
def test_only_old_agents_on_vms_are_started_with_it(
    settings: Any, tmp_path: Path, version: str, tools: bool, is_given: bool
) -> None:
    settings.AGENT_TOOLS, settings.AGENT_CONFIG_DIR = tools, tmp_path
    home = homes.home_of("01HZZZZZZZZZZZZZZZZZZZZZZZ")
    program = FoundProgram("/usr/bin/pi", "@mariozechner/pi-coding-agent", version)
    machine = RemoteMachine(python="python3", programs="/x", found={"pi": program}, sizes={})
    prepared = DIALECTS["pi"].prepare_remote(enlist("ada"), home, machine)
    given = [str(home.config / "reef.ts")] if is_given else []
    arguments = list(prepared.arguments)
    assert [arguments[n + 1] for n, each in enumerate(arguments) if each == "-e"] == given
    assert DIALECTS["pi"].remote_config("https://reef.example")["reef.ts"] == extension.text()


@pytest.mark.agent
def test_old_agent_uses_the_tools(old_crew: Fleet, stub: StubLLM) -> None:
    old_crew.create("ada")
    stub.script(
        {"tool": {"name": "vm_tree_find", "arguments": {"type": "organ", "name": "none"}}},
        {"tool": {"name": "reef_lt_read", "arguments": {"name": "nobody"}}},
        {"text": "done"},
    )
    old_crew.send("ada", "look around")
    until(lambda: old_crew.get("ada")["outputHistory"] == ["done"], 60)
    offered = {each["function"]["name"] for each in stub.requests[-1]["body"]["tools"]}
    assert {"reef_lt_create", "reef_wait", "vm_tree_view"} <= offered
    # A lieutenant's own token does not reach the whole host.
    assert "reef_lt_discover" not in offered
    assert old_crew.texts("ada", "tool_result") == [
        'No VMs found with organ "none".',
        "Error: Lieutenant not found",
    ]
    # Reef itself says how its lieutenants are.
    assert VM.objects.get().status == "running"


@pytest.mark.agent
@pytest.mark.rotated
def test_old_agent_calls_the_tools_of_the_contract(old_crew: Fleet, stub: StubLLM) -> None:
    old_crew.create("ada")
    contract_calls.call_all(
        stub,
        lambda text: old_crew.send("ada", text),
        lambda: old_crew.get("pup"),
        lambda kind: old_crew.texts("ada", kind),
    )


@pytest.mark.agent
@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("version", OLD_AGENTS)
def test_old_agent_of_somebody_elses_brings_signs_of_life(
    version: str, live_server: LiveServer, stub: StubLLM, tmp_path: Path
) -> None:
    (tmp_path / "models.json").write_text(json.dumps(stub.models_json()))
    stub.reset()
    file = tmp_path / "reef.ts"
    file.write_text(extension.text())
    argv = [real_agent(version), "--mode", "rpc", "--no-session", "-e", str(file)]
    process = subprocess.Popen(
        [*argv, "--model", "stub/echo"],
        env=environment(
            live_server.url,
            VERS_VM_ID="vm-9",
            PI_CODING_AGENT_DIR=str(tmp_path),
            PI_OFFLINE="1",
        ),
        cwd=tmp_path,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    with process:
        try:
            process.stdin.write('{"type": "prompt", "message": "hello"}\n')
            process.stdin.flush()
            events: list[dict[str, Any]] = []
            for line in process.stdout:
                events.append(json.loads(line))
                if events[-1]["type"] == "agent_end":
                    break
            until(lambda: VM.objects.filter(pk="vm-9", status="running").exists())
            process.stdin.close()
            events += [json.loads(line) for line in process.stdout]
            assert process.wait(20) == 0
        finally:
            process.kill()
    assert VM.objects.get().status == "stopped"
    widgets = [each for each in events if each.get("method") == "setWidget"]
    assert widgets[0]["widgetKey"] == "reef"
    assert widgets[0]["widgetLines"][0] == f"--- Fleet Services --- {live_server.url}/ui"
    assert not Lieutenant.objects.exists()
    assert not Node.objects.filter(vm_id="vm-9").exists()
