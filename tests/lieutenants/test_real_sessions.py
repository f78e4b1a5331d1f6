"""The real agent's own ways with its session: forks, commands, models that are gone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lieutenants.isolation.homes import home_of
from lieutenants.models import AgentModels, Entry, Message, Usage
from lieutenants.transcript import items
from tests.conftest import PINNED_AGENT_FIRST, Fleet, real_agent
from tests.stub_llm import StubLLM
from tests.waiting import until

pytestmark = pytest.mark.agent

ROUTE = "/lieutenant/lieutenants"
EXTENSION = """export default function (pi) {
  pi.registerCommand("note", { handler: async (args, ctx) => { ctx.ui.notify("done-note") } })
  pi.registerCommand("boom", { handler: async () => { throw new Error("boom-error") } })
}
"""


@pytest.fixture(params=PINNED_AGENT_FIRST)
def crew(
    request: pytest.FixtureRequest, fleet: Fleet, stub: StubLLM, settings: Any, tmp_path: Path
) -> Fleet:
    """A fleet of the real agent, with a model folder of the test's own."""
    settings.PI_PATH = real_agent(request.param)
    settings.AGENT_CONFIG_DIR = tmp_path / "pi"
    (tmp_path / "pi" / "extensions").mkdir(parents=True)
    (tmp_path / "pi" / "extensions" / "commands.ts").write_text(EXTENSION)
    (tmp_path / "pi" / "models.json").write_text(json.dumps(stub.models_json()))
    (tmp_path / "pi" / "settings.json").write_text(json.dumps({"retry": {"maxRetries": 0}}))
    settings.DEFAULT_MODEL = "stub/echo"
    stub.reset()
    return fleet


@pytest.mark.parametrize("status", [400, pytest.param(413, marks=pytest.mark.thorough)])
def test_a_poisoned_session_goes_on_from_before_the_message(
    crew: Fleet, stub: StubLLM, status: int
) -> None:
    stub.script(
        {
            "match": {"any": "POISON-7"},
            "times": 0,
            "status": status,
            "error": "image cannot be decoded",
        }
    )
    crew.create("ada")
    crew.ask("ada", "my number is 4711")
    for text in ("say POISON-7", "harmless 1", "harmless 2"):
        crew.ask("ada", text)
    asked = len(stub.requests)
    known = crew.get("ada")["failing"]
    assert (known["count"], known["canRewind"]) == (3, True)
    assert len(crew.texts("ada", "error")) == 2

    assert crew.api.post(f"{ROUTE}/ada/rewind", {}).status_code == 202
    until(lambda: crew.row("ada").rewind_to is None)
    assert "Went back to before message “say POISON-7”" in crew.texts("ada", "notice")[-1]
    assert crew.ask("ada", "and now?") == "echo: and now?"
    blocks = items.newest_window(crew.row("ada")).items
    aside = [each.entry.text for each in blocks if each.is_set_aside and each.entry.kind == "user"]
    assert aside == ["say POISON-7", "harmless 1", "harmless 2"]
    shown = json.dumps(stub.requests[-1]["body"]["messages"])
    assert "4711" in shown
    assert "POISON" not in shown
    assert len(stub.requests) == asked + 1

    crew.api.post(f"{ROUTE}/ada/restart")
    crew.wait("ada", "idle")
    crew.ask("ada", "still?")
    shown = json.dumps(stub.requests[-1]["body"]["messages"])
    assert "and now?" in shown
    assert "POISON" not in shown
    assert (home_of(crew.row("ada").pk).session / "session.jsonl").exists()


def test_commands_of_an_extension_are_handled_at_once(crew: Fleet) -> None:
    crew.create("bob")
    crew.ask("bob", "hello")
    for command in ("/note", "/boom"):
        crew.send("bob", command)
        crew.wait("bob", "idle", 5.0)

    said = Entry.objects.filter(kind__in=["user", "notice", "error"]).order_by("id")
    assert [each.text for each in said][:3] == ["hello", "/note", "done-note"]
    assert "boom-error" in crew.texts("bob", "error")[0]
    assert crew.row("bob").task_count == 1
    told = Message.objects.filter(text__startswith="/").values_list("evidence", flat=True)
    if "pi-pinned" in crew.process("bob").agent:
        assert [(each or {}).get("disposition") for each in told] == ["handled", "handled"]


@pytest.mark.thorough
def test_a_model_that_is_gone_is_told(crew: Fleet, stub: StubLLM, settings: Any) -> None:
    crew.create("cyd", model="stub/echo")
    until(lambda: AgentModels.objects.exists())
    refused = crew.api.client.patch(
        f"{ROUTE}/cyd", data={"model": "no/such"}, content_type="application/json"
    )
    assert refused.status_code == 400
    assert "stub/echo" in refused.json()["error"]

    known = stub.models_json()
    (provider,) = known["providers"].values()
    provider["models"] = [each for each in provider["models"] if each["id"] != "echo"]
    (settings.AGENT_CONFIG_DIR / "models.json").write_text(json.dumps(known))
    crew.api.post(f"{ROUTE}/cyd/restart")
    crew.wait("cyd", "idle")
    problem = until(lambda: crew.get("cyd").get("modelProblem"))
    assert "stub/echo is not among the agent's models" in problem
    assert crew.get("cyd")["modelWanted"] == "stub/echo"
    assert problem in crew.texts("cyd", "notice")
    crew.ask("cyd", "hi")
    assert Usage.objects.latest("id").model == "echo"


@pytest.mark.thorough
def test_a_cut_connection_leaves_one_text_in_the_answer(
    crew: Fleet, stub: StubLLM, settings: Any
) -> None:
    quick = {"retry": {"maxRetries": 2, "baseDelayMs": 20, "provider": {"maxRetries": 0}}}
    (settings.AGENT_CONFIG_DIR / "settings.json").write_text(json.dumps(quick))
    crew.create("dot", model="stub/drop")

    assert crew.ask("dot", "go") == "half of an answer"


def test_a_pause_in_a_tool_call_is_told_as_an_abort(crew: Fleet, stub: StubLLM) -> None:
    crew.create("eve")
    stub.script({"tool": {"name": "bash", "arguments": {"command": "sleep 100"}}})
    crew.send("eve", "use your tool")
    until(lambda: crew.get("eve").get("waitingFor") == "tool bash (sleep 100)")
    crew.api.post(f"{ROUTE}/eve/pause", {"force": True})
    until(lambda: crew.row("eve").live_process() is None)

    assert crew.texts("eve", "error") == []
    assert "The answer was aborted." in crew.texts("eve", "notice")
