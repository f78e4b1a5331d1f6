"""Checkpoints and copies of VMs, by the tools of agents, against the emulated platform."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from bootloader.inventory import reconcile
from bootloader.models import Machine, Provisioning
from tests.conftest import Api
from tests.dispatching import drop_tasks
from tests.emulator.fixture import emulator, emulator_of_the_run
from tests.emulator.handle import Emulator
from tests.vmtree.conftest import NodeApi
from vmtree import services as tree
from vmtree import tokens
from vmtree.models import Node

__all__ = ["emulator", "emulator_of_the_run"]

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def vm_id(emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the id of a VM at the platform that is a member of the fleet, below `top`."""
    drop_tasks(monkeypatch, "bootloader.")
    for name, value in emulator.environment().items():
        monkeypatch.setenv(name, value)
    answer = httpx.post(
        f"{emulator.url}/api/v1/vm/new_root?wait_boot=true",
        json={"vm_config": {}},
        headers={"authorization": f"Bearer {emulator.key}"},
        timeout=60,
    )
    made = str(answer.json()["vm_id"])
    tree.create(tree.NewNode("top", "agent_vm", "top"), by="tests")
    tree.create(tree.NewNode("one", "agent_vm", made, "top"), by="tests")
    reconcile.compare_provider("vers")
    return made


def call(api: Api, tool: str, **arguments: object) -> Any:
    answer = api.post(f"/tools/{tool}", arguments)
    assert answer.status_code == 200, answer.content
    return answer.json()


def as_node(vm_id: str) -> NodeApi:
    return NodeApi(tokens.issue(Node.objects.get(vm_id=vm_id), made_by="tests"))


def commits(emulator: Emulator) -> list[str]:
    headers = {"authorization": f"Bearer {emulator.key}"}
    found = httpx.get(f"{emulator.url}/api/v1/commits", headers=headers, timeout=60).json()
    return [each["commit_id"] for each in found["commits"]]


def test_agent_saves_a_vm_below_it(emulator: Emulator, vm_id: str) -> None:
    top = as_node("top")
    saved = call(top, "reef_checkpoint", vmId=vm_id, name="before")
    [commit] = commits(emulator)
    assert saved["details"]["call"]["result"]["commit"] == commit
    assert saved["text"].endswith(f"is saved as commit {commit}.")

    call_id = saved["details"]["call"]["id"]
    assert call(top, "reef_call", id=call_id) == saved
    assert call(top, "reef_wait", calls=[call_id])["text"] == f"Done: call {call_id} is done."
    # The result belongs to the caller.
    assert call(as_node(vm_id), "reef_call", id=call_id)["text"] == "Error: there is no such call"
    own = call(as_node(vm_id), "reef_checkpoint", vmId=vm_id)
    assert own["text"].startswith("Error: rule: ")


def test_operator_makes_a_copy_of_a_vm(api: Api, emulator: Emulator, vm_id: str) -> None:
    made = call(api, "reef_branch", vmId=vm_id, name="two", type="lightweight")
    [commit] = commits(emulator)
    row = Provisioning.objects.get()
    assert (row.name, row.parent_vm_id, row.wish["commit"]) == ("two", "top", commit)
    assert made["text"].endswith(f"VM two is being made from it by provisioning {row.pk}.")
    refused = call(as_node("top"), "reef_branch", vmId=vm_id, name="three", type="lightweight")
    assert refused["text"] == "Error: commitId: is for the root token and operators"
    assert len(commits(emulator)) == 1


def test_what_cannot_be_saved_says_why(api: Api, emulator: Emulator, vm_id: str) -> None:
    nothing = call(api, "reef_checkpoint", vmId="top")
    assert nothing["text"] == "Error: No provider has a machine of VM 'top'"
    Machine.objects.create(provider="ssh", machine_id="box", vm_id="top", name="box")
    unable = call(api, "reef_checkpoint", vmId="top")
    assert unable["text"].endswith("ssh machines cannot commit")
    headers = {"authorization": f"Bearer {emulator.key}"}
    httpx.delete(f"{emulator.url}/api/v1/vm/{vm_id}", headers=headers, timeout=60)
    gone = call(api, "reef_checkpoint", vmId=vm_id)
    assert gone["isError"] is True
