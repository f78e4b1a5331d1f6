"""The real agent's dialogs, opened by an extension, and what it makes of the answers."""

from __future__ import annotations

import json
import os
import signal
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.utils import timezone

from lieutenants.models import Lieutenant, Question
from lieutenants.questions import deadlines
from lieutenants.questions.states import QuestionState
from tests.conftest import PINNED_AGENT_FIRST, Fleet, real_agent
from tests.stub_llm import StubLLM
from tests.waiting import until

pytestmark = pytest.mark.agent

AT = "/lieutenant/questions"
EXTENSION = """export default function (pi) {
  const command = (name, open) => pi.registerCommand(name, {
    handler: async (args, ctx) => ctx.ui.notify(`${name}: ${await open(ctx.ui)}`),
  });
  command("choose", (ui) => ui.select("Which?", ["red", "green"]));
  command("confirm", (ui) => ui.confirm("Sure?", "It is gone then."));
  command("name", (ui) => ui.input("Name?", "a name"));
  command("edit", (ui) => ui.editor("Edit", "one\\ntwo"));
  pi.on("tool_call", async (event, ctx) => {
    const command = event.input.command ?? "";
    if (command.includes("danger") && !(await ctx.ui.confirm("Allow?", command)))
      return { block: true, reason: "a person said no" };
  });
}
"""


@pytest.fixture(params=PINNED_AGENT_FIRST)
def crew(
    request: pytest.FixtureRequest, fleet: Fleet, stub: StubLLM, settings: Any, tmp_path: Path
) -> Fleet:
    """A fleet of the real agent with the extension."""
    settings.PI_PATH = real_agent(request.param)
    settings.AGENT_CONFIG_DIR = tmp_path / "pi"
    (tmp_path / "pi" / "extensions").mkdir(parents=True)
    (tmp_path / "pi" / "extensions" / "dialogs.ts").write_text(EXTENSION)
    (tmp_path / "pi" / "models.json").write_text(json.dumps(stub.models_json()))
    settings.DEFAULT_MODEL = "stub/echo"
    stub.reset()
    return fleet


def asked() -> dict[str, Any] | None:
    """Return the open question, if there is one."""
    row = Question.objects.open().first()
    return {"id": row.pk, "kind": row.kind, "text": row.text, "row": row} if row else None


def answer(crew: Fleet, value: Any) -> Question:
    """Wait for the question, and answer it."""
    found = until(asked)
    done = crew.api.post(f"{AT}/{found['id']}/answer", {"answer": value})
    assert done.status_code == 200, done.content
    row: Question = found["row"]
    return row


def test_each_dialog_gets_the_answer_of_a_person(crew: Fleet) -> None:
    crew.create("ada")
    for command, kind, value, result in (
        ("choose", "select", "green", "green"),
        ("confirm", "confirm", True, "true"),
        ("name", "input", "eve", "eve"),
        ("edit", "editor", "one\n2", "one\n2"),
        ("name", "input", None, "undefined"),
    ):
        crew.send("ada", f"/{command}")
        question = answer(crew, value)
        assert question.kind == kind
        until(lambda: f"{command}: {result}" in crew.texts("ada", "notice"))  # noqa: B023
        until(lambda: Question.objects.get(pk=question.pk).delivered_at)  # noqa: B023
    crew.wait("ada", "idle")


def test_agent_waits_for_a_permission_over_a_restart(crew: Fleet, stub: StubLLM) -> None:
    crew.create("ada", stallLimitSeconds=1, toolLimitSeconds=1)
    stub.script(
        {"tool": {"name": "bash", "arguments": {"command": "echo danger"}}}, {"text": "done"}
    )
    crew.send("ada", "do it")
    until(asked)
    until(lambda: crew.get("ada").get("waitingFor", "").startswith("a person to answer “Allow?"))
    # Longer than both limits: waiting for a person is no stall.
    asked_at = until(asked)["row"].created_at
    until(lambda: timezone.now() - asked_at > timedelta(seconds=2.5))
    assert crew.get("ada")["status"] == "working"
    crew.stop_follower()
    pk = until(asked)["id"]
    # Nobody follows the agent while the answer comes.
    assert crew.api.post(f"{AT}/{pk}/answer", {"answer": True}).status_code == 200
    crew.restart_follower()
    crew.wait("ada", "idle")
    assert crew.texts("ada", "tool_result") == ["danger\n"]
    assert crew.get("ada")["outputHistory"] == ["done"]
    assert any("root token answered: yes" in each for each in crew.texts("ada", "notice"))


def test_dialog_without_an_answer_is_dismissed_and_the_agent_goes_on(
    crew: Fleet, stub: StubLLM
) -> None:
    crew.create("ada", dialogLimitSeconds=3000)
    stub.script(
        {"tool": {"name": "bash", "arguments": {"command": "echo danger"}}}, {"text": "done"}
    )
    crew.send("ada", "do it")
    until(asked)
    Question.objects.update(deadline=timezone.now())
    assert deadlines.decide_overdue() == 1
    crew.wait("ada", "idle")
    assert "a person said no" in crew.texts("ada", "tool_result")[0]


def test_abort_and_death_end_the_wait(crew: Fleet) -> None:
    crew.create("ada")
    crew.send("ada", "/confirm")
    until(asked)
    pid = crew.process("ada").handle["agent_pid"]
    os.kill(pid, signal.SIGKILL)
    until(lambda: Question.objects.get().state == QuestionState.WITHDRAWN)
    assert Question.objects.get().note == "its agent ended"
    assert not Lieutenant.objects.get().waiting_for
