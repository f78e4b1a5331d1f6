"""The real agent from npm, in three versions, against a scripted model."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import Any

import pytest

from lieutenants.models import Answer, Entry, Message, Usage
from lieutenants.states import MessageState, Outcome
from tests.conftest import REAL_AGENTS, Fleet, real_agent
from tests.pictures import square_png
from tests.stub_llm import StubLLM
from tests.waiting import until
from versconfig.screening import sources
from versconfig.screening.screen import Screen, Secret

pytestmark = pytest.mark.agent

# Short pauses between tries, and a context that is worth shortening soon.
QUICK = {
    "retry": {"maxRetries": 2, "baseDelayMs": 50, "provider": {"maxRetries": 0}},
    "compaction": {"keepRecentTokens": 50, "reserveTokens": 1000},
}


@pytest.fixture(params=REAL_AGENTS)
def crew(
    request: pytest.FixtureRequest, fleet: Fleet, stub: StubLLM, settings: Any, tmp_path: Path
) -> Fleet:
    """A fleet of the real agent, with a model folder of the test's own."""
    settings.PI_PATH = real_agent(request.param)
    settings.AGENT_CONFIG_DIR = tmp_path / "pi"
    settings.AGENT_CONFIG_DIR.mkdir()
    (tmp_path / "pi" / "models.json").write_text(json.dumps(stub.models_json()))
    (tmp_path / "pi" / "settings.json").write_text(json.dumps(QUICK))
    settings.DEFAULT_MODEL = "stub/echo"
    stub.reset()
    return fleet


def test_it_answers_in_pieces_and_calls_a_tool(crew: Fleet, stub: StubLLM) -> None:
    crew.create("ada")
    assert crew.ask("ada", "hello") == "echo: hello"

    stub.script(
        {"tool": {"name": "bash", "arguments": {"command": "echo from-the-tool"}}},
        {"steps": [{"text": "the tool "}, {"gate": "rest"}, {"text": "has spoken"}]},
    )
    crew.send("ada", "use your tool")
    until(lambda: crew.get("ada")["lastOutput"].endswith("the tool "))
    stub.open_gate("rest")
    crew.wait("ada", "idle")

    calls = Entry.objects.filter(kind=Entry.Kind.TOOL_CALL)
    assert [each.data["arguments"] for each in calls] == [{"command": "echo from-the-tool"}]
    assert crew.texts("ada", "tool_result") == ["from-the-tool\n"]
    assert crew.get("ada")["outputHistory"] == ["echo: hello", "the tool has spoken"]
    assert crew.texts("ada", "user") == ["hello", "use your tool"]
    assert set(Message.objects.values_list("state", flat=True)) == {MessageState.ACCEPTED}
    usage = until(lambda: crew.get("ada").get("contextUsage"))
    assert usage["window"] == 128_000
    assert usage["percent"] == round(usage["tokens"] / 1280, 1) > 0
    sums = Usage.objects.all().sums()
    assert sums["calls"] == 3
    assert sums["total_output"] > 0
    assert sums["total_cost"] > 0


def test_model_gets_the_images_of_a_message_and_the_journal_does_not(
    crew: Fleet, stub: StubLLM
) -> None:
    crew.create("ada")
    # A real image: newer versions decode and check it.
    data = base64.b64encode(square_png()).decode()
    body = {"message": "look", "images": [{"mediaType": "image/png", "data": data}]}
    sent = crew.api.post("/lieutenant/lieutenants/ada/send", body)
    assert sent.status_code == 200, sent.content
    process = crew.process("ada")
    crew.wait("ada", "idle")

    parts = stub.requests[-1]["body"]["messages"][-1]["content"]
    [image] = [part["image_url"]["url"] for part in parts if part["type"] == "image_url"]
    assert image == f"data:image/png;base64,{data}"
    entry = Entry.objects.get(kind=Entry.Kind.USER)
    assert entry.message_id == sent.json()["messageId"]
    assert entry.data == {"images": 1}
    assert data not in Path(process.directory, "journal.jsonl").read_text()


def test_agent_makes_a_page_of_its_session_with_secrets_covered(
    crew: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    word = "jihgfedcba-3210"
    crew.create("ada")
    crew.ask("ada", f"remember the word {word}")
    # It becomes a secret only now, when the session file has it already.
    screen = Screen([Secret("KEY", word)])
    monkeypatch.setattr(sources, "for_node", lambda *_, **__: screen)

    answer = crew.api.get("/lieutenant/lieutenants/ada/export?format=agent")
    assert answer.status_code == 200
    html = b"".join(answer.streaming_content).decode()
    assert html.index("Content-Security-Policy") < html.index("<script")
    data = re.search(r'id="session-data"[^>]*>([^<]*)<', html)
    assert data is not None
    session = base64.b64decode(data[1]).decode()
    assert "remember the word" in session
    assert word not in session


def test_steer_joins_the_running_answer_and_follow_ups_wait_in_reef(
    crew: Fleet, stub: StubLLM
) -> None:
    crew.create("bea")
    stub.script(
        {"steps": [{"text": "part one. "}, {"gate": "g"}, {"text": "done."}]},
    )
    crew.send("bea", "first")
    until(lambda: "part one" in crew.get("bea")["lastOutput"])
    late = crew.send("bea", "second")
    steer = crew.send("bea", "third", mode="steer")
    assert (late.mode, steer.mode) == ("followUp", "steer")
    last = crew.send("bea", "fourth")
    decided = Message.objects.filter(state=MessageState.ACCEPTED)
    until(lambda: decided.count() == 2)
    path = f"/lieutenant/lieutenants/bea/messages/{last.pk}"
    body = json.dumps({"position": 1, "text": "instead"})
    moved = crew.api.client.patch(path, data=body, content_type="application/json")
    assert (moved.status_code, moved.json()["position"]) == (200, 1)
    assert Message.objects.get(pk=late.pk).state == MessageState.QUEUED
    stub.open_gate("g")
    crew.wait("bea", "idle")

    assert crew.texts("bea", "user") == ["first", "third", "instead", "second"]
    assert crew.texts("bea")[-2:] == ["echo: instead", "echo: second"]
    assert not Message.objects.filter(taken_up_at__isnull=True).exists()


def test_an_abort_ends_the_answer_and_keeps_its_half(crew: Fleet, stub: StubLLM) -> None:
    crew.create("cyd")
    stub.script({"steps": [{"text": "half of it "}, {"gate": "never"}]})
    crew.send("cyd", "go")
    until(lambda: "half" in crew.get("cyd")["lastOutput"])

    assert crew.api.post("/lieutenant/lieutenants/cyd/abort").status_code == 200
    crew.wait("cyd", "idle")

    answer = Answer.objects.get()
    assert (answer.outcome, answer.text) == (Outcome.ABORTED, "half of it ")
    assert crew.ask("cyd", "still there?") == "echo: still there?"


def test_pause_and_resume_keep_the_context(crew: Fleet, stub: StubLLM) -> None:
    crew.create("dot")
    crew.ask("dot", "my number is 4711")
    pid = crew.process("dot").handle["agent_pid"]
    assert crew.api.post("/lieutenant/lieutenants/dot/pause").json() == {"paused": True}
    until(lambda: crew.row("dot").live_process() is None)
    assert not Path(f"/proc/{pid}").exists()
    assert crew.api.post("/lieutenant/lieutenants/dot/send", {"message": "x"}).status_code == 400

    assert crew.api.post("/lieutenant/lieutenants/dot/resume").json() == {"resumed": True}
    crew.wait("dot", "idle")
    crew.ask("dot", "what was it?")

    shown = json.dumps(stub.requests[-1]["body"]["messages"])
    assert "my number is 4711" in shown
    assert "echo: my number is 4711" in shown


def test_trouble_of_the_model_is_shown_as_what_it_is(crew: Fleet, stub: StubLLM) -> None:
    crew.create("eve", model="stub/err-429")
    crew.ask("eve", "anyone?")

    notices = " ".join(crew.texts("eve", "notice"))
    errors = " ".join(crew.texts("eve", "error"))
    assert "429" in notices
    assert "429" in errors
    assert "429" in crew.get("eve")["trouble"]
    assert Answer.objects.get().outcome == Outcome.ERROR


def test_a_broken_connection_is_tried_again_and_told(crew: Fleet, stub: StubLLM) -> None:
    crew.create("flo", model="stub/flaky-500-1")
    assert crew.ask("flo", "please") == "echo: please"

    assert "500" in " ".join(crew.texts("flo", "notice"))
    assert "trouble" not in crew.get("flo")
    assert Answer.objects.get().outcome == Outcome.COMPLETED


def test_a_full_context_is_shortened_and_told(crew: Fleet, stub: StubLLM) -> None:
    crew.create("gus")
    crew.ask("gus", "something long to begin with " * 400)
    stub.script(
        {
            "status": 400,
            "code": "context_length_exceeded",
            "error": "This model's maximum context length is 128000 tokens. However, your "
            "messages resulted in 200000 tokens.",
        },
    )
    crew.ask("gus", "more")
    notices = " ".join(crew.texts("gus", "notice"))
    assert "shortens its context: it is full" in notices


def test_a_model_that_is_not_there_is_an_error_with_the_reason(crew: Fleet) -> None:
    crew.create("hal", ready=False, model="nobody-has-this")
    row = crew.wait("hal", "error")
    assert "nobody-has-this" in row.error
    assert row.live_process() is None


def test_destroy_leaves_no_process(crew: Fleet) -> None:
    crew.create("ida")
    pid = crew.process("ida").handle["agent_pid"]
    detail = crew.api.delete("/lieutenant/lieutenants/ida").json()
    assert detail == {"destroyed": True, "detail": "ida: destroyed (local, 0 tasks completed)"}
    until(lambda: not Path(f"/proc/{pid}").exists())
    assert crew.api.get("/lieutenant/lieutenants/ida").status_code == 404
