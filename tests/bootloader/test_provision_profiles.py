"""Each built-in profile, from the request to a live VM whose agent, fetched by npm, answers."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from bootloader.boot.catalog import BUILT_IN
from tests.bootloader.provisioning_stack import BootStack
from tests.emulator.fixture import emulator, emulator_of_the_run
from tests.emulator.handle import Emulator
from tests.stub_llm import StubLLM

__all__ = ["emulator", "emulator_of_the_run"]

pytestmark = [pytest.mark.agent, pytest.mark.timeout(900)]

# npm and pip download some hundred megabytes.
SECONDS = 600.0
ASK = (
    ". /opt/reef/identity.env; cd /tmp && PI_OFFLINE=1 /opt/reef/bin/pi --print --no-session "
    "--model $REEF_AGENT_MODEL 'are you there' < /dev/null"
)


@pytest.fixture(scope="module")
def model(emulator_of_the_run: Emulator) -> Iterator[StubLLM]:
    """Start a model at an address that VMs can reach."""
    with StubLLM(str(emulator_of_the_run.bridge_address)) as running:
        yield running


@pytest.fixture(scope="module")
def stack(
    emulator_of_the_run: Emulator, model: StubLLM, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[BootStack]:
    folder = tmp_path_factory.mktemp("boot")
    ours = {"REEF_MODEL_URL": model.base_url, "REEF_AGENT_MODEL": "ours/echo"}
    with BootStack(folder, emulator_of_the_run, **ours) as running:
        yield running


@pytest.mark.rotated
@pytest.mark.parametrize(
    "kind",
    [
        kind if kind == "lightweight" else pytest.param(kind, marks=pytest.mark.thorough)
        for kind in BUILT_IN
    ],
)
def test_provisioned_vm_runs_an_agent_that_answers(
    stack: BootStack, emulator: Emulator, kind: str
) -> None:
    profile = BUILT_IN[kind]
    made = stack.wait(stack.provision(f"a-{kind}", kind)["id"], seconds=SECONDS)

    assert made["state"] == "done", stack.log(made["id"])
    node = stack.client.get(f"/vm-tree/vms/{made['vmId']}").json()
    assert (node["category"], node["reefConfig"]) == (profile.category, profile.dna)
    vm = stack.client.get(f"/registry/vms/{made['vmId']}").json()
    assert (vm["role"], vm["status"], vm["liveness"]) == (profile.role, "running", "live")

    assert "echo: are you there" in stack.on_vm(made["machineId"], ASK)
    if profile.own_reef:
        said = stack.on_vm(made["machineId"], "curl -s http://127.0.0.1:3000/health")
        assert json.loads(said)["status"] == "ok", said
