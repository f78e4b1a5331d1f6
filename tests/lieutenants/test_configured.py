"""Configuration that agents get at their start: model and provider keys, by scope."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from django.conf import settings

from lieutenants.agents.pi.program import PINNED
from lieutenants.models import Lieutenant
from tests.conftest import Api, Fleet
from tests.waiting import until
from versconfig import keys
from versconfig.models import Scope
from versconfig.services import FLEET, Target, build_change, put, remove
from vmtree.models import Node

SECRET = "sk-test-0123456789-abcdefghij"
MODEL = "REEF_AGENT_MODEL"


@pytest.fixture(autouse=True)
def _no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in keys.ALL:
        monkeypatch.delenv(name, raising=False)


def mine(fleet: Fleet, name: str) -> Target:
    node = Node.objects.get(vm_id=fleet.row(name).pk)
    return Target(Scope.LIEUTENANT, node)


def store(name: str, text: str, target: Target = FLEET) -> None:
    put(build_change(name, text, target), by="tests")


def started(fleet: Fleet, name: str) -> tuple[dict[str, str], list[str]]:
    """Environment and arguments of its agent."""
    pid = until(lambda: fleet.process(name).handle.get("agent_pid"))
    entries = Path(f"/proc/{pid}/environ").read_bytes().decode().split("\0")
    words = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
    return dict(entry.split("=", 1) for entry in entries if "=" in entry), words


def restart(fleet: Fleet, name: str) -> None:
    before = fleet.process(name).pk
    assert fleet.api.post(f"/lieutenant/lieutenants/{name}/restart").status_code == 200
    until(lambda: (live := fleet.row(name).live_process()) and live.pk != before)
    fleet.wait(name, "idle")


def test_vms_install_the_agent_that_reef_has() -> None:
    assert keys.ALL["REEF_AGENT_VERSION"].default == PINNED


def test_without_settings_defaults_apply(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GROQ_API_KEY", "gsk-of-the-environment")
    fleet.create("plain")

    env, words = started(fleet, "plain")

    assert "--model" not in words
    assert env["GROQ_API_KEY"] == "gsk-of-the-environment"
    assert not {"OPENAI_API_KEY", "ANTHROPIC_API_KEY"} & env.keys()


def test_nearest_stored_value_wins(
    fleet: Fleet, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("GROQ_API_KEY", "gsk-of-the-environment")
    for name in ("ada", "bob"):
        fleet.create(name)
    fleet.create("own", model="stub/own")
    store("OPENAI_API_KEY", SECRET + "-fleet")
    store("OPENAI_API_KEY", SECRET + "-ada", mine(fleet, "ada"))
    store("GROQ_API_KEY", SECRET + "-shadowed")
    store(MODEL, "stub/fleet")
    store(MODEL, "stub/ada", mine(fleet, "ada"))

    found = {}
    for name in ("ada", "bob", "own"):
        restart(fleet, name)
        env, words = started(fleet, name)
        found[name] = (env["OPENAI_API_KEY"], words[words.index("--model") + 1])
        assert env["GROQ_API_KEY"] == "gsk-of-the-environment"

    assert found == {
        "ada": (SECRET + "-ada", "stub/ada"),
        "bob": (SECRET + "-fleet", "stub/fleet"),
        "own": (SECRET + "-fleet", "stub/own"),
    }
    assert SECRET not in caplog.text
    for file in Path(settings.DATA_DIR).rglob("*"):
        if file.is_file():
            assert SECRET.encode() not in file.read_bytes(), file


def test_a_change_says_whose_agents_must_be_restarted(fleet: Fleet, api: Api) -> None:
    for name in ("ada", "bob"):
        fleet.create(name)
    fleet.create("own", model="stub/own")
    store(MODEL, "stub/ada", mine(fleet, "ada"))

    def asked(name: str, value: str) -> list[str]:
        answer = api.client.put(
            f"/vers-config/{name}",
            {"value": value, "dryRun": True},
            content_type="application/json",
        )
        restart: list[str] = answer.json()["impact"]["restart"]
        return restart

    assert asked(MODEL, "stub/new") == ["bob"]
    assert asked("OPENAI_API_KEY", SECRET) == ["ada", "bob", "own"]
    assert asked("REEF_VM_VCPUS", "4") == []


def test_unreadable_value_fails_the_start_with_a_reason(fleet: Fleet) -> None:
    store("OPENAI_API_KEY", SECRET)
    settings.CONFIG_KEYS_FILE.unlink()

    fleet.create("ada", ready=False)

    row: Lieutenant = fleet.wait("ada", "error")
    assert "OPENAI_API_KEY (store, the fleet): what is stored cannot be decrypted" in row.error
    remove("OPENAI_API_KEY", by="tests")
    assert fleet.api.post("/lieutenant/lieutenants/ada/restart").status_code == 200
    fleet.wait("ada", "idle")
