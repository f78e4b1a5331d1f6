"""The real agent on a machine at the end of an SSH connection, against a scripted model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lieutenants.models import Answer, Entry, Message
from lieutenants.states import MessageState
from tests.conftest import PINNED_AGENT_FIRST, real_agent
from tests.lieutenants.remote.conftest import Site
from tests.stub_llm import StubLLM
from tests.waiting import until

pytestmark = pytest.mark.agent
SAID = "0123456789" * 40


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
    agent = real_agent(request.param)
    monkeypatch.setattr("lieutenants.agents.pi.program.REMOTE_PATHS", (agent,))
    settings.AGENT_CONFIG_DIR = tmp_path / "pi"
    settings.AGENT_CONFIG_DIR.mkdir()
    (tmp_path / "pi" / "models.json").write_text(json.dumps(stub.models_json()))
    settings.DEFAULT_MODEL = "stub/echo"
    stub.reset()
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
