"""Each built-in profile, from the request to a live VM whose agent, fetched by npm, answers."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from bootloader.words import BUILT_IN
from tests.bootloader.booted import BootStack
from tests.emulator.fixture import emulator, emulator_of_the_run
from tests.emulator.handle import Emulator
from tests.stub_llm import StubLLM

__all__ = ["emulator", "emulator_of_the_run"]

pytestmark = [pytest.mark.agent, pytest.mark.timeout(900)]

# npm and pip fetch some hundred megabytes, on a busy machine.
SECONDS = 600.0
MODELS = 'mkdir -p "$HOME/.pi/agent" && cat > "$HOME/.pi/agent/models.json"'
ASK = (
    "set -a; . /opt/reef/identity.env; set +a; unset PI_CODING_AGENT_DIR; cd /tmp && "
    "/opt/reef/agent/pi --print --no-session --model stub/echo 'are you there' < /dev/null"
)


@pytest.fixture
def model(emulator_of_the_run: Emulator) -> Iterator[StubLLM]:
    """A model where VMs can reach it."""
    with StubLLM(str(emulator_of_the_run.bridge_address)) as running:
        yield running


@pytest.fixture(scope="module")
def stack(
    emulator_of_the_run: Emulator, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[BootStack]:
    folder = tmp_path_factory.mktemp("boot")
    with BootStack(folder, emulator_of_the_run) as running:
        yield running


@pytest.mark.parametrize("kind", list(BUILT_IN))
def test_from_a_request_to_an_answer(
    stack: BootStack, emulator: Emulator, model: StubLLM, kind: str
) -> None:
    profile = BUILT_IN[kind]
    made = stack.wait(stack.provision(f"a-{kind}", kind)["id"], seconds=SECONDS)

    assert made["state"] == "done", stack.log(made["id"])
    node = stack.client.get(f"/vm-tree/vms/{made['vmId']}").json()
    assert (node["category"], node["reefConfig"]) == (profile.category, profile.dna)
    vm = stack.client.get(f"/registry/vms/{made['vmId']}").json()
    assert (vm["role"], vm["status"], vm["liveness"]) == (profile.role, "running", "live")

    stack.on_vm(made["machineId"], MODELS, stdin=json.dumps(model.models_json()))
    assert "echo: are you there" in stack.on_vm(made["machineId"], ASK)
    if profile.own_reef:
        said = stack.on_vm(made["machineId"], "curl -s http://127.0.0.1:3000/health")
        assert json.loads(said)["status"] == "ok", said
