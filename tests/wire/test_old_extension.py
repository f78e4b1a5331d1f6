"""All tools of the extension that deployed agents have, run by Node: exact requests and texts."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.conf import settings as our_settings
from pytest_django.live_server_helper import LiveServer

from reef_site.common.tools import declared_tools
from tests.conftest import Api, Fleet
from tests.stack import ROOT
from tests.wire.api_client import DATE

SCRIPT = ROOT / "tests" / "agents" / "old_client.mjs"
DNA = {"organs": ["store"], "capabilities": ["ssh"]}
Call = Callable[..., str]

pytestmark = pytest.mark.agent


@pytest.fixture
def old(live_server: LiveServer) -> Iterator[Call]:
    """Return a function that calls a tool and returns its text; errors begin with `Error: `."""
    node = shutil.which("node")
    if node is None:
        pytest.fail("no Node: run the tests with `python3 manage.py test`")
    environment = {
        "PATH": os.environ["PATH"],
        "VERS_INFRA_URL": live_server.url,
        "VERS_AUTH_TOKEN": our_settings.ROOT_TOKEN,
        "VERS_AGENT_NAME": "old-one",
    }
    with subprocess.Popen(
        [node, str(SCRIPT)],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        stdin, stdout = process.stdin, process.stdout

        def call(tool: str, **parameters: object) -> str:
            stdin.write(json.dumps([tool, parameters]) + "\n")
            stdin.flush()
            result = json.loads(stdout.readline())
            assert result["isError"] == result["text"].startswith("Error: ")
            return str(result["text"])

        try:
            yield call
        finally:
            process.kill()


def of_tool(api: Api, tool: str, **arguments: object) -> str:
    """Return the text that our own tool of this name has for the same call."""
    found: Any = api.post(f"/tools/{tool}", arguments)
    assert found.status_code == 200, found.content
    return str(found.json()["text"])


def test_tools_of_lieutenants(fleet: Fleet, api: Api, old: Call) -> None:
    assert old("reef_lt_status") == "No lieutenants active."
    assert old("reef_lt_destroy", name="*") == "No lieutenants to destroy."
    made = old("reef_lt_create", name="ada", role="reviews")
    assert made == 'Lieutenant "ada" is ready [local].\n  Role: reviews\n  Status: starting'
    fleet.wait("ada", "idle")
    assert old("reef_lt_send", name="ada", message="hi") == 'Sent to ada (prompt): "hi"'
    fleet.wait("ada", "idle")
    assert old("reef_lt_read", name="ada", tail=2) == "[ada] (idle, 1 tasks):\n\n...hi"
    head, *middle, last = old("reef_lt_status").split("\n")
    assert (head, middle) == ("* ada [idle]", ["  Role: reviews", "  local", "  Tasks: 1"])
    assert DATE.fullmatch(last.removeprefix("  Last active: "))
    assert old("reef_lt_status") == of_tool(api, "reef_lt_status")
    paused = old("reef_lt_pause", name="ada")
    assert paused == 'Lieutenant "ada" paused. Use reef_lt_resume to wake it.'
    fleet.wait("ada", "paused")
    assert old("reef_lt_send", name="ada", message="x") == (
        "Error: POST /lieutenant/lieutenants/ada/send (400): "
        "Lieutenant 'ada' is paused. Resume it first."
    )
    assert old("reef_lt_resume", name="ada") == 'Lieutenant "ada" resumed. Ready for tasks.'
    fleet.wait("ada", "idle")
    assert old("reef_lt_discover").startswith("Discovery results:\n")
    assert old("reef_lt_destroy", name="ada") == "ada: destroyed (local, 1 tasks completed)"


@pytest.mark.django_db(transaction=True)
def test_tools_of_registry_and_tree(api: Api, old: Call) -> None:
    added = old("vm_tree_register", name="roof", category="infra_vm", vmId="vm-1", reefConfig=DNA)
    assert added == 'Registered "roof" (infra_vm) in tree. ID: vm-1'
    assert old("vm_tree_view") == of_tool(api, "vm_tree_view")
    assert json.loads(old("vm_tree_view", vmId="vm-1"))["tree"][0]["vm"]["name"] == "roof"
    found = old("vm_tree_find", type="capability", name="ssh")
    assert found.startswith('1 VM(s) with capability "ssh":\n[\n  {\n    "vmId": "vm-1",')
    assert found == of_tool(api, "vm_tree_find", type="capability", name="ssh")
    assert old("vm_tree_find", type="organ", name="no") == 'No VMs found with organ "no".'

    vm = {"id": "vm-2", "name": "leaf", "role": "worker", "address": "10.0.0.2"}
    registered = json.loads(old("registry_register", **vm, parentVmId="vm-1", reefConfig=DNA))
    assert (registered["registeredBy"], registered["status"]) == ("old-one", "running")
    assert list(json.loads(old("registry_heartbeat", id="vm-2")))[:2] == ["id", "lastSeen"]
    assert json.loads(old("registry_list", role="worker"))["count"] == 1
    assert json.loads(old("registry_discover", role="worker"))["vms"][0]["id"] == "vm-2"
    for direction in ("ancestors", "subtree", "children"):
        lineage = json.loads(old("registry_lineage", id="vm-2", direction=direction))
        assert list(lineage) == [direction, "count"]
    assert old("registry_heartbeat", id="a/b c") == (
        "Error: POST /registry/vms/a%2Fb%20c/heartbeat (404): VM not found"
    )


@pytest.mark.django_db(transaction=True)
def test_tools_of_config_and_bootloader(api: Api, old: Call) -> None:
    assert old("vers_config_set", key="VERS_BASE_URL", value="https://api.example") == (
        "Set VERS_BASE_URL (source: store)."
    )
    shown = old("vers_config_get")
    assert shown == of_tool(api, "vers_config_get")
    assert [line[:12].rstrip() for line in shown.split("\n")] == [
        *("API Key:", "Infra URL:", "Auth Token:"),
        *("Base URL:", "Agent Name:", "VM ID:", "Agent Role:"),
    ]
    assert old("vers_config_set", key="NOPE", value="x").startswith(
        "Error: PUT /vers-config/NOPE (400): Invalid config key: NOPE. Valid: VERS_API_KEY, "
    )
    assert old("reef_boot_profiles") == of_tool(api, "reef_boot_profiles")
    script = old("reef_boot_generate", vmId="vm-3", name="seed", type="swarm", extraOrgans=["docs"])
    assert re.fullmatch(
        r'Boot script generated for "seed" \(swarm\)\nOrgans: store, cron, docs\n'
        r"Capabilities: vers-vm, vers-vm-copy, vers-swarm\nPi-vers: yes\nScript: #!",
        script,
    )


def test_all_of_its_tools_are_tools_of_ours() -> None:
    names = re.findall(r"^  (\w+): async", SCRIPT.read_text(), re.MULTILINE)
    assert len(names) == 20
    assert set(names) <= set(declared_tools())
